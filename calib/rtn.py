"""Round-to-nearest block quantization, in the storage layout of ONNX Runtime's kernels.

The layout is that of `com.microsoft::MatMulNBits` and `com.microsoft::QMoE`: rows of blocks along
K, the first of two 4-bit values in the low half of a byte, dequantized as
``(q - zero_point) * scale``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.scheme import Scheme
from trtcoder.errors import BuildError


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix ``[N, K]`` in blocks.

    Attributes:
        packed: uint8 ``[N, blocks, block_size * bits / 8]``.
        scales: float32 ``[N, blocks]``.
        zero_points: uint8 ``[N, ceil(blocks * bits / 8)]``, or None when symmetric.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None


def quantize(weights: NDArray[np.float32], scheme: Scheme, where: str) -> QuantizedMatrix:
    """Quantize ``weights`` ``[N, K]`` to the nearest representable values.

    A symmetric 4-bit block maps its value of largest magnitude to -8, so that the scale may be
    negative and all 16 levels are used. A symmetric 8-bit block maps it to +-127.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite.
    """
    rows, width = weights.shape
    if not np.isfinite(weights).all():
        raise BuildError(f"{where}: holds values that are not finite; the checkpoint is damaged")
    blocks = scheme.blocks(width)
    padding = blocks * scheme.block_size - width
    if padding:
        weights = np.pad(weights, ((0, 0), (0, padding)))
    grouped = weights.reshape(rows, blocks, scheme.block_size)
    middle = 1 << (scheme.bits - 1)
    top = 2 * middle - 1
    if scheme.symmetric:
        scales = _symmetric_scales(grouped, scheme.bits)
        zeros = np.full((rows, blocks), middle, np.float32)
    else:
        low = np.minimum(grouped.min(axis=2), 0)
        high = np.maximum(grouped.max(axis=2), 0)
        scales = _normal((high - low) / np.float32(top))
        zeros = np.clip(np.rint(-low * _inverse(scales)), 0, top)
    levels = grouped * _inverse(scales)[..., None]
    np.rint(levels, out=levels)
    levels += zeros[..., None]
    np.clip(levels, 0, top, out=levels)
    codes = levels.astype(np.uint8)
    return QuantizedMatrix(
        packed=pack(codes, scheme.bits),
        scales=scales,
        zero_points=None if scheme.symmetric else pack(zeros.astype(np.uint8), scheme.bits),
    )


def dequantize(matrix: QuantizedMatrix, scheme: Scheme, width: int) -> NDArray[np.float32]:
    """Return float32 ``[N, width]``: the values that the kernels multiply with."""
    rows, blocks = matrix.scales.shape
    codes = unpack(matrix.packed, scheme.bits, scheme.block_size).astype(np.float32)
    if matrix.zero_points is None:
        codes -= 1 << (scheme.bits - 1)
    else:
        codes -= unpack(matrix.zero_points, scheme.bits, blocks)[..., None]
    codes *= matrix.scales[..., None]
    return codes.reshape(rows, blocks * scheme.block_size)[:, :width]


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack ``codes`` along the last axis: two 4-bit values a byte, the first in the low half."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Undo `pack`: uint8 codes with ``count`` values on the last axis."""
    if bits == 8:
        return packed[..., :count]
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
    codes[..., 0::2] = packed & 0x0F
    codes[..., 1::2] = packed >> 4
    return codes[..., :count]


def _symmetric_scales(grouped: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    if bits == 8:
        largest: NDArray[np.float32] = np.abs(grouped).max(axis=2)
        return _normal(largest / np.float32(127))
    low, high = grouped.min(axis=2), grouped.max(axis=2)
    extreme: NDArray[np.float32] = np.where(-low > high, low, high)
    return _normal(extreme / np.float32(-8))


def _normal(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 0 for scales so small that their inverse would overflow: such blocks become zeros."""
    tiny = np.abs(scales) < np.finfo(np.float32).tiny
    return np.where(tiny, np.float32(0), scales)


def _inverse(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / scales, and 0 where a block is all zeros."""
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
