"""Rounding in one pass over the rows: widen, choose the grid, round, pack, count the loss.

Compiled, and without the interpreter's lock, so that as many row ranges as there are cores are
rounded at the same time. A row is widened into a buffer of its own size, which stays in the
first-level cache; nothing else is copied.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trtcoder.calib.blocks import Grid, QuantizedMatrix, stored
from trtcoder.calib.record import Loss
from trtcoder.calib.scheme import Scheme
from trtcoder.errors import BuildError

# float16's largest value; a scale beyond it cannot be stored.
_LARGEST_SCALE = np.float32(65504)


def round_to_nearest(
    rows: NDArray[np.generic], scheme: Scheme, where: str
) -> tuple[QuantizedMatrix, Loss]:
    """Store ``rows`` ``[N, K]`` on the grid on which the extremes of each block lie.

    ``rows`` is float32, or uint16 for the bits of bfloat16. A symmetric 4-bit block maps its value
    of largest magnitude to -8, so that the scale may be negative and all 16 levels are used. A
    symmetric 8-bit block maps it to +-127.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite, or one beyond
            what float16 scales reach.
    """
    shape = (len(rows), scheme.blocks(rows.shape[1]))
    grid = Grid(np.empty(shape, np.float32), np.empty(shape, np.float32))
    return _round(rows, grid, scheme, where, choose=True)


def round_to_grid(
    rows: NDArray[np.float32], grid: Grid, scheme: Scheme, where: str
) -> tuple[QuantizedMatrix, Loss]:
    """Store each of ``rows`` ``[N, K]`` as the nearest value of its block's grid.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite.
    """
    return _round(rows, grid, scheme, where, choose=False)


def _round(
    rows: NDArray[np.generic], grid: Grid, scheme: Scheme, where: str, *, choose: bool
) -> tuple[QuantizedMatrix, Loss]:
    blocks, size = grid.scales.shape[1], scheme.block_size
    packed = np.empty((len(rows), blocks, size * scheme.bits // 8), np.uint8)
    sums = np.zeros(3, np.float64)
    bits = rows if rows.dtype == np.uint16 else np.asarray(rows, np.float32).view(np.uint32)
    # Zeros behind the row's end: padding, which stands for zero.
    buffer = np.zeros(blocks * size, np.uint32)
    status = _round_rows(
        np.ascontiguousarray(bits), buffer, buffer.view(np.float32).reshape(blocks, size),
        np.empty((blocks, size), np.int32), packed, grid.scales, grid.zeros, choose,
        scheme.bits, scheme.symmetric, sums,
    )  # fmt: skip
    if status == 1:
        raise BuildError(f"{where}: holds values that are not finite; the checkpoint is damaged")
    if status == 2:
        raise BuildError(
            f"{where}: holds values beyond the range of float16 scales; build with --weights fp32"
        )
    return stored(packed, grid, scheme), Loss(*sums.tolist())


# Stated, since it would take over a compiled caller's setting: this order of operations is meant.
@njit(nogil=True, cache=True, fastmath=False)
def _half(value):  # type: ignore[no-untyped-def]
    """Return float32 rounded to float16, ties to even; magnitudes up to 65504."""
    magnitude = abs(value)
    # Below 2 ** -14 float16 is a multiple of 2 ** -24; adding and taking away 1.5 * 2 ** -1 rounds
    # a float32 to such multiples.
    if magnitude < np.float32(6.103515625e-05):
        rounded = (magnitude + np.float32(0.75)) - np.float32(0.75)
    else:
        # Veltkamp's splitting keeps the upper 11 of 24 bits.
        product = magnitude * np.float32(8193)
        rounded = product - (product - magnitude)
    return rounded if value >= 0 else -rounded


# `reassoc` lets sums run in vectors, `nnan` and `nsz` minima and maxima: values are known finite.
# Blocks are rows of two-dimensional arrays, so that no index can be negative and loops vectorize.
@njit(nogil=True, cache=True, fastmath={"reassoc", "nnan", "nsz"})
def _round_rows(  # type: ignore[no-untyped-def]
    rows, bits_of, values, codes, packed, scales, zeros, choose, bits, symmetric, sums
):
    """Fill ``packed``, ``sums``, and ``scales`` and ``zeros`` if they are to be chosen.

    ``bits_of`` is a row's buffer, ``values`` the same memory as float32 ``[blocks, size]``.
    Returns 1 for a value that is not finite, 2 for a scale beyond float16, else 0.
    """
    count, width = rows.shape
    blocks, size = values.shape
    top = np.float32((1 << bits) - 1)
    middle = np.float32(1 << (bits - 1))
    shift = np.uint32(16 if rows.itemsize == 2 else 0)
    for row in range(count):
        largest = np.uint32(0)
        for k in range(width):
            wide = np.uint32(rows[row, k]) << shift
            bits_of[k] = wide
            largest = max(largest, wide & np.uint32(0x7FFFFFFF))
        if largest >= np.uint32(0x7F800000):
            return 1
        for block in range(blocks):
            scale = scales[row, block]
            zero = zeros[row, block]
            if choose:
                low = np.float32(0)
                high = np.float32(0)
                for k in range(size):
                    low = min(low, values[block, k])
                    high = max(high, values[block, k])
                zero = middle
                if not symmetric:
                    scale = (high - low) / top
                elif bits == 8:
                    scale = max(-low, high) / np.float32(127)
                else:
                    scale = (low if -low > high else high) / np.float32(-8)
                if abs(scale) > _LARGEST_SCALE:
                    return 2
                scale = _half(scale)
                if not symmetric:
                    zero = np.float32(0)
                    if scale != 0:
                        zero = min(max(np.rint(-low * (np.float32(1) / scale)), zero), top)
                scales[row, block] = scale
                zeros[row, block] = zero
            inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
            weight = np.float32(0)
            error = np.float32(0)
            off = np.float32(0)
            for k in range(size):
                value = values[block, k]
                level = min(max(np.rint(value * inverse) + zero, np.float32(0)), top)
                codes[block, k] = np.int32(level)
                difference = (level - zero) * scale - value
                weight += value * value
                error += difference * difference
                off = max(off, abs(difference))
            sums[0] += weight
            sums[1] += error
            sums[2] = max(sums[2], off)
            if bits == 4:
                for k in range(size // 2):
                    packed[row, block, k] = codes[block, 2 * k] | (codes[block, 2 * k + 1] << 4)
            else:
                for k in range(size):
                    packed[row, block, k] = codes[block, k]
    return 0
