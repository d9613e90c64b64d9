"""Tensors of a quantized checkpoint in float64, from the formats' own descriptions.

Float8: OCP's E4M3 (1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinities). Blocks of 128 x 128
as in DeepSeek-V3's published weights; one scale a matrix as in ModelOpt's; int4 as `pack-quantized`
of compressed-tensors has it. NVFP4: OCP's E2M1 (1 sign, 2 exponent bits, 1 of mantissa, bias 1) in
blocks of 16 with a scale in E4M3, and one scale a matrix, as in ModelOpt's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .weights import Float64, Weights

BLOCK = 128
NVFP4_BLOCK = 16


def float8(codes: NDArray[np.uint8]) -> Float64:
    """Return what E4M3 codes stand for."""
    exponent, mantissa = (codes >> 3) & 15, (codes & 7).astype(np.float64)
    normal = (1 + mantissa / 8) * 2.0 ** (exponent.astype(np.float64) - 7)
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values: Float64 = np.where(codes >> 7, -magnitude, magnitude)
    return values


def float4(codes: NDArray[np.uint8]) -> Float64:
    """Return what E2M1 codes, 0 to 15, stand for."""
    exponent, mantissa = (codes >> 1) & 3, (codes & 1).astype(np.float64)
    normal = (1 + mantissa / 2) * 2.0 ** (exponent.astype(np.float64) - 1)
    magnitude = np.where(exponent == 0, mantissa / 2, normal)
    values: Float64 = np.where(codes >> 3, -magnitude, magnitude)
    return values


def nibbles(words: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the eight codes of each word ``[..., n]``, from the lowest bits up: ``[..., 8 n]``."""
    wide = words.astype(np.int64)[..., None] >> np.arange(0, 32, 4)
    return (wide & 15).reshape(*words.shape[:-1], -1)


class QuantizedWeights(Weights):
    """Gives the weights that quantized modules stand for, under the names of the model's own."""

    def __getitem__(self, name: str) -> Float64:
        module = name.removesuffix(".weight")
        if f"{module}.weight_packed" in self:
            return unpacked(*(self.stored(module, role) for role in PACKED))
        if f"{module}.weight_scale_2" in self:
            return scaled_twice(*(self.raw(f"{module}.{role}") for role in NVFP4))
        if self.dtype(name) != "F8_E4M3":
            return super().__getitem__(name)
        codes = self.raw(name)
        if f"{module}.weight_scale_inv" in self:
            return unblocked(codes, self.raw(f"{module}.weight_scale_inv"))
        return float8(codes) * float(self.raw(f"{module}.weight_scale"))

    def stored(self, module: str, role: str) -> NDArray[Any] | None:
        """Return one of a module's tensors, bfloat16 as float64; None where there is none."""
        name = f"{module}.{role}"
        if name not in self:
            return None
        return super().__getitem__(name) if self.dtype(name) == "BF16" else self.raw(name)


NVFP4 = ("weight", "weight_scale", "weight_scale_2")
PACKED = ("weight_packed", "weight_scale", "weight_zero_point")


def scaled_twice(packed: NDArray[Any], scales: NDArray[Any], scale: NDArray[Any]) -> Float64:
    """Return NVFP4 codes, two in each byte ``[N, K / 2]``, times both of their scales."""
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, NVFP4_BLOCK)
    values: Float64 = float4(codes) * float8(scales)[..., None] * float(scale)
    return values.reshape(len(packed), -1)


def unblocked(codes: NDArray[Any], scales: NDArray[Any]) -> Float64:
    """Return float8 codes ``[N, K]`` times the scales of their blocks."""
    spread = np.kron(scales.astype(np.float64), np.ones((BLOCK, BLOCK)))
    values: Float64 = float8(codes) * spread[: codes.shape[0], : codes.shape[1]]
    return values


def unpacked(
    packed: NDArray[Any] | None, scales: NDArray[Any] | None, zeros: NDArray[Any] | None
) -> Float64:
    """Return ``(code - zero point) * scale`` of packed rows ``[N, K]``."""
    assert packed is not None
    assert scales is not None
    codes = nibbles(packed).reshape(*scales.shape, -1)
    offset = 8 if zeros is None else nibbles(zeros.T).T[..., None]
    values: Float64 = ((codes - offset) * scales[..., None]).reshape(len(packed), -1)
    return values
