"""Matrices in blocks, in the storage layout of ONNX Runtime's kernels.

The layout is that of `com.microsoft::MatMulNBits` and `com.microsoft::QMoE`: rows of blocks along
K, the first of two 4-bit values in the low half of a byte, dequantized as
``(q - zero_point) * scale``.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix ``[N, K]`` in blocks.

    Attributes:
        packed: uint8 ``[N, blocks, block_size * bits / 8]``.
        scales: float16 ``[N, blocks]``.
        zero_points: uint8 ``[N, ceil(blocks * bits / 8)]``, or None when symmetric.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zero_points: NDArray[np.uint8] | None

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        zero_points = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.packed.nbytes + self.scales.nbytes + zero_points


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that each block can take: ``(code - zero) * scale`` for every code.

    Attributes:
        scales: float32 ``[N, blocks]``, each exact in float16; 0 makes a block zeros.
        zeros: float32 ``[N, blocks]``, whole numbers from 0 to ``2 ** bits - 1``.
    """

    scales: NDArray[np.float32]
    zeros: NDArray[np.float32]


def grouped(weights: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """Return ``weights`` ``[N, K]`` as ``[N, blocks, block_size]``, padded with zeros."""
    rows, width = weights.shape
    blocks = scheme.blocks(width)
    padding = blocks * scheme.block_size - width
    if padding:
        weights = np.pad(weights, ((0, 0), (0, padding)))
    return weights.reshape(rows, blocks, scheme.block_size)


def stored(packed: NDArray[np.uint8], grid: Grid, scheme: Scheme) -> QuantizedMatrix:
    """Return packed codes and their grid in their stored form."""
    return QuantizedMatrix(
        packed=packed,
        scales=grid.scales.astype(np.float16),
        zero_points=None if scheme.symmetric else pack(grid.zeros.astype(np.uint8), scheme.bits),
    )


def grid_of(matrix: QuantizedMatrix, scheme: Scheme) -> Grid:
    """Return the grid that a matrix is stored on."""
    scales = matrix.scales.astype(np.float32)
    if matrix.zero_points is None:
        return Grid(scales, np.full(scales.shape, scheme.middle, np.float32))
    zeros = unpack(matrix.zero_points, scheme.bits, scales.shape[1])
    return Grid(scales, zeros.astype(np.float32))


def dequantize(matrix: QuantizedMatrix, scheme: Scheme, width: int) -> NDArray[np.float32]:
    """Return float32 ``[N, width]``: the values that the kernels multiply with."""
    rows, blocks = matrix.scales.shape
    codes = unpack(matrix.packed, scheme.bits, scheme.block_size).astype(np.float32)
    grid = grid_of(matrix, scheme)
    codes -= grid.zeros[..., None]
    codes *= grid.scales[..., None]
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


def stored_scales(scales: NDArray[np.float32], scheme: Scheme, where: str) -> NDArray[np.float32]:
    """Return the scales as ``scheme`` stores them; blocks below float16's range become zeros.

    Raises:
        BuildError: a scale of the tensor ``where`` is beyond float16.
    """
    with np.errstate(over="ignore"):
        stored = scales.astype(np.float16).astype(np.float32)
        if scheme.bfloat16_scales:
            stored = stored.astype(ml_dtypes.bfloat16).astype(np.float16).astype(np.float32)
    if not np.isfinite(stored).all():
        raise BuildError(
            f"{where}: holds values beyond the range of float16 scales; build with --weights fp32"
        )
    return stored
