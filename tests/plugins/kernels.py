"""The kernels as NumPy functions, and what they must compute."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from trtcoder.calib.storage.blocks import QuantizedMatrix, dequantize, pack
from trtcoder.calib.storage.panels import float_panels, to_panels
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import DependencyError
from trtcoder.plugins.library import KernelLibrary, open_library

Floats = NDArray[np.float32]
Stored = TypeVar("Stored", bound=np.generic)


def library() -> KernelLibrary:
    try:
        return open_library()
    except DependencyError as error:
        pytest.skip(str(error), allow_module_level=True)


class CMatrix(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("block", ctypes.c_int32),
    ]


def pointer(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data


def aligned(array: NDArray[Stored]) -> NDArray[Stored]:
    """Copy an array to a 64-byte boundary, as the data file has it."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@dataclass(frozen=True)
class Weights:
    """A matrix [N, K] in both layouts; in float32 codes are the values' bytes, without scales."""

    scheme: Scheme
    width: int
    rows: QuantizedMatrix
    panels: QuantizedMatrix

    @classmethod
    def random(cls, rng: np.random.Generator, rows: int, width: int, scheme: Scheme) -> Weights:
        if scheme.is_float:
            values = rng.standard_normal((rows, width)).astype(np.float32)
            plain, stored = (
                QuantizedMatrix(part.view(np.uint8), np.empty((len(part), 0), np.float16), None)
                for part in (values, aligned(float_panels(values)))
            )
            return cls(scheme, width, plain, stored)
        blocks = scheme.blocks(width)
        codes = rng.integers(0, scheme.top + 1, (rows, blocks, scheme.block_size), np.uint8)
        scales = (rng.standard_normal((rows, blocks)) * 0.01).astype(np.float16)
        zeros = rng.integers(0, scheme.top + 1, (rows, blocks), np.uint8)
        return cls.of(codes, scales, zeros, width, scheme)

    @classmethod
    def of(
        cls,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float16],
        zeros: NDArray[np.uint8],
        width: int,
        scheme: Scheme,
    ) -> Weights:
        """Take codes [N, blocks, block]; scales and zero points [N, blocks], if it has any."""
        plain = QuantizedMatrix(
            pack(codes, scheme.bits),
            scales,
            None if scheme.symmetric else pack(zeros, scheme.bits),
        )
        panels = to_panels(plain, scheme)
        stored = QuantizedMatrix(
            aligned(panels.packed),
            aligned(panels.scales),
            None if panels.zero_points is None else aligned(panels.zero_points),
        )
        return cls(scheme, width, plain, stored)

    @property
    def view(self) -> CMatrix:
        panels = self.panels
        return CMatrix(
            pointer(panels.packed),
            None if self.scheme.is_float else pointer(panels.scales),
            pointer(panels.zero_points),
            len(self.rows.packed),
            self.width,
            self.scheme.bits,
            self.block,
        )

    @property
    def block(self) -> int:
        return 0 if self.scheme.is_float else self.scheme.block_size

    @property
    def values(self) -> Floats:
        if self.scheme.is_float:
            return self.rows.packed.view(np.float32)
        return dequantize(self.rows, self.scheme, self.width)


def rounded(x: Floats, scheme: Scheme) -> NDArray[np.float64]:
    """Activations [T, K] as the kernels round them: to 127 steps of each block's largest.

    For float32 matrices they stay as they are.
    """
    if scheme.is_float:
        return x.astype(np.float64)
    block = scheme.block_size
    tokens, width = x.shape
    padded = np.pad(x, ((0, 0), (0, -width % block))).reshape(tokens, -1, block)
    largest = np.abs(padded).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        inverse = np.where(largest < np.float32(2.0**-100), 0, np.float32(127) / largest)
    codes = np.rint(padded * inverse.astype(np.float32))
    scales = (largest / np.float32(127)).astype(np.float64)
    values: NDArray[np.float64] = (codes * scales).reshape(tokens, -1)[:, :width]
    return values


def roundings(scheme: Scheme, width: int) -> int:
    """Return how often a sum over ``width`` columns is rounded to float32, about."""
    return (width if scheme.is_float else scheme.blocks(width)) + 3


def linear(isa: str, x: Floats, weights: Weights) -> Floats:
    out = np.full((len(x), len(weights.rows.packed)), np.nan, np.float32)
    found = library()
    function = found.functions.trtcoder_linear
    function.restype = ctypes.c_char_p
    x = np.ascontiguousarray(x)
    found.check(
        function(
            isa.encode(),
            ctypes.c_void_p(pointer(x)),
            ctypes.c_int64(len(x)),
            ctypes.byref(weights.view),
            ctypes.c_void_p(pointer(out)),
        )
    )
    return out
