"""Matrices in 8-bit floating point, E4M3: four bits of exponent, three of mantissa.

The type is ONNX's FLOAT8E4M3FN and ml_dtypes' float8_e4m3fn: magnitudes of 2 ** -9 up to 448, no
infinity, NaN. Source: Micikevicius et al., FP8 formats for deep learning (arXiv 2209.05433).
Scales of 128 x 128 blocks, and of 128 channels of a token for activations, are those of DeepSeek-V3
(arXiv 2412.19437), section 3.3.2, and of its published weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0
BLOCK = 128
# A scale is never below float32's normal numbers: nothing divides by zero or by what a GPU flushes.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
SCALE_TYPES = ("float32", "bfloat16", "float16")
ACTIVATIONS = ("float", "static", "dynamic")
# What each of the 256 codes stands for.
VALUES: Floats = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Float8:
    """Storage of a matrix ``[N, K]`` as float8, and what its matmul does to activations.

    Attributes:
        per_block: one scale for 128 x 128 weights, or one for the whole matrix.
        activations: ``float`` leaves them as layers pass them on. ``static`` rounds each to float8
            with one scale, from calibration; ``dynamic`` with scales of what comes: one a token, or
            one a token and 128 channels where the weights have blocks.
        scale_type: one of `SCALE_TYPES`. Scales are rounded up to values that it holds, for
            readers that keep them in it.
    """

    per_block: bool = True
    activations: str = "dynamic"
    scale_type: str = "float32"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("activations", self.activations, ACTIVATIONS),
            ("scale type", self.scale_type, SCALE_TYPES),
        ):
            if value not in known:
                raise BuildError(f"{name}: {value!r} is unknown; use one of {', '.join(known)}")

    def scale_shape(self, rows: int, width: int) -> tuple[int, ...]:
        """Return the shape of the scales of ``rows`` rows."""
        return (-(-rows // BLOCK), -(-width // BLOCK)) if self.per_block else (1,)

    def activation_block(self, width: int) -> int:
        """Return how many channels of a token share a dynamic scale."""
        return BLOCK if self.per_block else width

    def __str__(self) -> str:
        return f"fp8 e4m3 {f'{BLOCK}x{BLOCK}' if self.per_block else 'tensor'}"


@dataclass(frozen=True, slots=True)
class Float8Matrix:
    """A matrix ``[N, K]`` in float8.

    Attributes:
        codes: uint8 ``[N, K]``, the bits of the float8 values.
        scales: float32, ``[ceil(N / 128), ceil(K / 128)]`` or ``[1]``; never 0.
    """

    codes: NDArray[np.uint8]
    scales: Floats

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.codes.nbytes + self.scales.nbytes


def scale_for(largest: Floats | float, scale_type: str = "float32") -> Floats:
    """Return the scales, float32, that bring magnitudes up to ``largest`` onto float8's range.

    They are the next ones above that ``scale_type`` holds: at most 0.8 % in bfloat16, 0.1 % in
    float16, of which only normal numbers are taken, from 6.1e-5 on, because GPUs divide by them.
    What float16 cannot hold becomes infinite.
    """
    scales: Floats = np.asarray(largest, np.float32) / np.float32(LARGEST)
    scales = np.maximum(scales, np.float32(SMALLEST_SCALE))
    if scale_type == "bfloat16":
        bits = scales.view(np.uint32)
        scales = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    elif scale_type == "float16":
        with np.errstate(over="ignore"):
            half = np.maximum(scales, np.finfo(np.float16).tiny).astype(np.float16)
            above = np.nextafter(half, np.float16(np.inf))
        scales = np.where(half < scales, above, half).astype(np.float32)
    return scales


def largest_magnitude(weights: Floats, where: str) -> float:
    """Return the largest magnitude of ``weights``.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite.
    """
    largest = max(float(weights.max()), -float(weights.min()))
    if not np.isfinite(largest):
        raise BuildError(f"{where}: holds values that are not finite; the checkpoint is damaged")
    return largest


def quantize(
    weights: Floats, scheme: Float8, where: str, largest: float | None = None
) -> Float8Matrix:
    """Round ``weights`` ``[N, K]`` to the nearest values, ties to even, as ml_dtypes casts.

    ``largest`` is the magnitude that the one scale of a matrix stored per tensor must reach, where
    these are only some of its rows. Rows in blocks must start at a multiple of 128.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite.
    """
    found = largest_magnitude(weights, where)
    if scheme.per_block:
        scales = scale_for(_block_maxima(weights), scheme.scale_type)
    else:
        largest = found if largest is None else largest
        scales = scale_for(largest, scheme.scale_type).reshape(1)
    levels = weights / _spread(scales, weights.shape)
    # The scale itself is rounded, so the largest level may exceed 448 in its last bit.
    np.clip(levels, -LARGEST, LARGEST, out=levels)
    return Float8Matrix(levels.astype(E4M3).view(np.uint8), scales)


def dequantize(matrix: Float8Matrix) -> Floats:
    """Return float32 ``[N, K]``: the values that the graph multiplies with."""
    return VALUES[matrix.codes] * _spread(matrix.scales, matrix.codes.shape)


def _block_maxima(weights: Floats) -> Floats:
    rows, width = weights.shape
    across = np.maximum.reduceat(np.abs(weights), np.arange(0, width, BLOCK), axis=1)
    maxima: Floats = np.maximum.reduceat(across, np.arange(0, rows, BLOCK), axis=0)
    return maxima


def _spread(scales: Floats, shape: tuple[int, ...]) -> Floats:
    """Return scales that broadcast over a matrix of ``shape``."""
    if scales.ndim == 1:
        return scales
    rows, width = shape
    return scales.repeat(BLOCK, axis=0)[:rows].repeat(BLOCK, axis=1)[:, :width]
