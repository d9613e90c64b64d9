"""Matrices in NVFP4: 4-bit floating point in blocks of 16, with a float8 scale each.

A value is ``code * scale of its block * scale of the matrix``: E2M1 (0, 0.5, 1, 1.5, 2, 3, 4 or 6,
and a sign), E4M3 and float32. Source: NVIDIA's ModelOpt 0.47,
`modelopt.torch.quantization.qtensor.nvfp4_tensor.NVFP4QTensor`, whose order of roundings this is,
to the bit (docs/decisions/0045-nvfp4-as-modelopt-rounds.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trtcoder.calib.storage.float8 import (
    E4M3,
    LARGEST,
    SMALLEST_SCALE,
    Floats,
    largest_magnitude,
)
from trtcoder.calib.storage.float8 import VALUES as E4M3_VALUES
from trtcoder.errors import BuildError

# Weights of a row that share a float8 scale.
GROUP = 16
LARGEST_CODE = 6.0
# What each of the 16 codes stands for; the highest bit is the sign.
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, LARGEST_CODE)
VALUES: Floats = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
# The least scale of a block of weights: E4M3's smallest number above 0.
_LEAST_BLOCK = np.float32(2.0**-9)


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """Storage of a matrix ``[N, K]`` as NVFP4, whose matmul rounds activations to NVFP4 too."""

    def __str__(self) -> str:
        return f"nvfp4 b{GROUP}"


@dataclass(frozen=True, slots=True)
class Nvfp4Matrix:
    """A matrix ``[N, K]`` in NVFP4.

    Attributes:
        packed: uint8 ``[N, K / 2]``: two codes a byte, the first in the low half.
        scales: uint8 ``[N, K / 16]``, the bits of the blocks' E4M3 scales.
        scale: float32 ``[1]``, above 0.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.uint8]
    scale: Floats

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.packed.nbytes + self.scales.nbytes + self.scale.nbytes


def scale_for(largest: float) -> Floats:
    """Return the scale, float32 ``[1]``, that brings magnitudes up to ``largest`` into range.

    That is ``largest / (6 * 448)``: the largest code under the largest scale of a block.
    """
    scale: Floats = np.array([largest], np.float32) / np.float32(LARGEST_CODE * LARGEST)
    return np.maximum(scale, np.float32(SMALLEST_SCALE))


def quantize(weights: Floats, where: str, largest: float | None = None) -> Nvfp4Matrix:
    """Round ``weights`` ``[N, K]`` to the nearest values, ties to codes that are even.

    A block's scale is its largest magnitude over ``6 * scale``, rounded to E4M3 and never below
    2 ** -9; that of a block of zeros is 1. ``largest`` is the magnitude that the scale of the
    matrix must reach, where these are only some of the rows that share it.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite, or its rows are
            not made of whole blocks.
    """
    found = largest_magnitude(weights, where)
    _check_width(weights, where)
    scale = scale_for(found if largest is None else largest)
    blocks = _maxima(np.ascontiguousarray(weights)) / (np.float32(LARGEST_CODE) * scale)
    blocks[blocks == 0] = 1
    scales = np.clip(blocks, _LEAST_BLOCK, np.float32(LARGEST)).astype(E4M3)
    packed = _packed(weights, scales.astype(np.float32) * scale)
    return Nvfp4Matrix(packed, scales.view(np.uint8), scale)


def round_activations(values: Floats, scale: Floats) -> Floats:
    """Return activations ``[T, K]`` as matmuls of NVFP4 round them, float32.

    Each token's 16 channels get a scale of their own as they come, under the one that calibration
    gave, ``scale`` ``[1]``. What exceeds the calibrated range by far is cut off, and a block whose
    scale rounds to 0 becomes zeros. Source: `cvt_warp_fp16_to_fp4` in TensorRT-LLM's
    quantization.cuh, which vLLM and SGLang have as well, with the reciprocals in its places; a
    GPU's are approximate, in their last bit.

    Raises:
        BuildError: the rows are not made of whole blocks.
    """
    _check_width(values, "activations")
    inverse, sixth = np.float32(1) / scale, np.float32(1 / LARGEST_CODE)
    blocks = inverse * (_maxima(np.ascontiguousarray(values)) * sixth)
    scales = np.minimum(blocks, np.float32(LARGEST)).astype(E4M3)
    steps = scales.astype(np.float32) * (np.float32(1) / inverse)
    factors = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=steps > 0)
    levels = values.reshape(*steps.shape, GROUP) * factors[..., None]
    packed = _packed(levels.reshape(values.shape), np.ones_like(steps))
    rounded = dequantize(Nvfp4Matrix(packed, scales.view(np.uint8), scale))
    # No code stands for it, and a certificate must see it.
    rounded[np.isnan(values)] = np.nan
    return rounded


def dequantize(matrix: Nvfp4Matrix) -> Floats:
    """Return float32 ``[N, K]``: the values that servers multiply with.

    A code times its block's scale is exact; the product with the matrix' scale is rounded once.
    """
    rows, blocks = matrix.scales.shape
    values = np.empty((rows, blocks * GROUP), np.float32)
    _unpack(matrix.packed, E4M3_VALUES[matrix.scales], matrix.scale[0], values)
    return values


def _check_width(values: Floats, where: str) -> None:
    if values.shape[1] % GROUP:
        raise BuildError(
            f"{where}: {values.shape[1]} columns are not made of whole blocks of {GROUP}, which "
            "NVFP4 wants"
        )


def _packed(values: Floats, steps: Floats) -> NDArray[np.uint8]:
    """Return the codes of values ``[N, K]``, whose blocks' codes are ``steps`` apart."""
    packed = np.empty((len(values), values.shape[1] // 2), np.uint8)
    _pack(np.ascontiguousarray(values), steps, packed)
    return packed


@njit(nogil=True, cache=True, fastmath=False)
def _maxima(values):  # type: ignore[no-untyped-def]
    """Return the largest magnitude of each block, float32 ``[N, K / 16]``."""
    rows, width = values.shape
    found = np.zeros((rows, width // GROUP), np.float32)
    for row in range(rows):
        for block in range(width // GROUP):
            largest = np.float32(0)
            for k in range(GROUP):
                largest = max(largest, abs(values[row, block * GROUP + k]))
            found[row, block] = largest
    return found


@njit(nogil=True, cache=True, fastmath=False)
def _pack(values, steps, packed):  # type: ignore[no-untyped-def]
    """Fill ``packed`` with codes; ``steps`` are above 0."""
    rows, blocks = steps.shape
    codes = np.empty(GROUP, np.uint8)
    for row in range(rows):
        for block in range(blocks):
            step = steps[row, block]
            for k in range(GROUP):
                level = values[row, block * GROUP + k] / step
                size = abs(level)
                # A tie goes to the code with an even mantissa: up where >= stands, else down.
                code = (
                    (size > np.float32(0.25)) + (size >= np.float32(0.75))
                    + (size > np.float32(1.25)) + (size >= np.float32(1.75))
                    + (size > np.float32(2.5)) + (size >= np.float32(3.5))
                    + (size > np.float32(5))
                )  # fmt: skip
                # Zero has no sign; what a sign is left of has one.
                codes[k] = code + (8 if level < 0 else 0)
            for k in range(GROUP // 2):
                packed[row, block * (GROUP // 2) + k] = codes[2 * k] | (codes[2 * k + 1] << 4)


@njit(nogil=True, cache=True, fastmath=False)
def _unpack(packed, blocks, scale, values):  # type: ignore[no-untyped-def]
    """Fill ``values`` with what codes stand for under the scales of their blocks and matrix."""
    rows, width = packed.shape
    for row in range(rows):
        for byte in range(width):
            block = blocks[row, byte * 2 // GROUP]
            values[row, 2 * byte] = VALUES[packed[row, byte] & 15] * block * scale
            values[row, 2 * byte + 1] = VALUES[packed[row, byte] >> 4] * block * scale
