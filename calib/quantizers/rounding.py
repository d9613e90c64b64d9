"""Rounding in one pass over the rows: widen, choose the grid, round, pack, count the loss.

Compiled, and without the interpreter's lock, so that as many row ranges as there are cores are
rounded at the same time. A row is widened into a buffer of its own size, which stays in the
first-level cache; nothing else is copied.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trtcoder.calib.storage.blocks import Grid, QuantizedMatrix, stored
from trtcoder.calib.storage.record import Loss
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

# float16's largest value; a scale beyond it cannot be stored.
_LARGEST_SCALE = np.float32(65504)
# Its largest value of eight significant bits.
_LARGEST_COARSE_SCALE = np.float32(65280)
# A grid may be far too fine for a value: steps beyond this are as good as this many.
REACH = np.float32(1 << 20)


def round_to_nearest(
    rows: NDArray[np.generic], scheme: Scheme, where: str
) -> tuple[QuantizedMatrix, Loss]:
    """Store ``rows`` ``[N, K]`` on the grid on which the extremes of each block lie.

    ``rows`` is float32, or uint16 for the bits of bfloat16. A symmetric 4-bit block maps its value
    of largest magnitude to -8, so that the scale may be negative and all 16 levels are used; with
    positive scales its least value to -8 or its largest to 7. A symmetric 8-bit block maps the
    value of largest magnitude to +-127.

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
    buffer = np.zeros((blocks, size), np.int32)
    errors = np.empty(size, np.float32)
    status = _round_rows(
        np.ascontiguousarray(bits), buffer, buffer.view(np.float32),
        np.empty((blocks, size), np.int32), errors, errors.view(np.int32), packed, grid.scales,
        grid.zeros, choose, scheme.bits, scheme.symmetric, scheme.bfloat16_scales,
        scheme.positive_scales, sums,
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


@njit(nogil=True, cache=True, fastmath=False)
def _eight_bits(value):  # type: ignore[no-untyped-def]
    """Return a float16 value rounded to eight significant bits, those of bfloat16."""
    product = value * np.float32(65537)
    return product - (product - value)


@njit(nogil=True, cache=True, fastmath=False)
def nearest(value):  # type: ignore[no-untyped-def]
    """Return the nearest whole number of a float32 below 2 ** 22, ties to even.

    `np.rint` is a call, which keeps a loop from running in vectors.
    """
    return (value + np.float32(12582912)) - np.float32(12582912)


@njit(nogil=True, cache=True)
def _ordered(bits):  # type: ignore[no-untyped-def]
    """Return an int32 that orders as the float32 with these bits does; its own inverse.

    Minima and maxima of whole numbers run in vectors.
    """
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


# `reassoc` lets sums run in vectors. Blocks are rows of two-dimensional arrays, so that no index
# can be negative, which would keep loops from it too.
@njit(nogil=True, cache=True, fastmath={"reassoc", "nnan", "nsz"})
def _round_rows(  # type: ignore[no-untyped-def]
    rows, bits_of, values, codes, errors, error_bits, packed, scales, zeros, choose, bits,
    symmetric, coarse, positive, sums,
):  # fmt: skip
    """Fill ``packed``, ``sums``, and ``scales`` and ``zeros`` if they are to be chosen.

    ``bits_of`` is a row's buffer as int32 ``[blocks, size]``, ``values`` the same memory as
    float32; so are ``error_bits`` and ``errors`` ``[size]``. Returns 1 for a value that is not
    finite, 2 for a scale beyond float16, else 0.
    """
    count, width = rows.shape
    blocks, size = values.shape
    top = np.int32((1 << bits) - 1)
    middle = np.float32(1 << (bits - 1))
    shift = np.uint32(16 if rows.itemsize == 2 else 0)
    flat = bits_of.reshape(blocks * size)
    for row in range(count):
        for k in range(width):
            flat[k] = np.int32(np.uint32(rows[row, k]) << shift)
        for block in range(blocks):
            scale = scales[row, block]
            zero = zeros[row, block]
            least = np.int32(0)
            most = np.int32(0)
            for k in range(size):
                key = _ordered(bits_of[block, k])
                least = min(least, key)
                most = max(most, key)
            error_bits[0] = _ordered(least)
            error_bits[1] = _ordered(most)
            low = errors[0]
            high = errors[1]
            # Infinities and NaN have keys beyond those of the finite numbers.
            if most >= np.int32(0x7F800000) or least <= np.int32(-0x7F800001):
                return 1
            if choose:
                zero = middle
                if not symmetric:
                    scale = (high - low) / np.float32(top)
                elif bits == 8:
                    scale = max(-low, high) / np.float32(127)
                elif positive:
                    scale = max(low / np.float32(-8), high / np.float32(7))
                else:
                    scale = (low if -low > high else high) / np.float32(-8)
                if abs(scale) > (_LARGEST_COARSE_SCALE if coarse else _LARGEST_SCALE):
                    return 2
                scale = _half(scale)
                if coarse:
                    scale = _eight_bits(scale)
                if not symmetric:
                    zero = np.float32(0)
                    if scale != 0:
                        lifted = np.rint(-low * (np.float32(1) / scale))
                        zero = min(max(lifted, np.float32(0)), np.float32(top))
                scales[row, block] = scale
                zeros[row, block] = zero
            inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
            offset = np.int32(zero)
            weight = np.float32(0)
            error = np.float32(0)
            for k in range(size):
                value = values[block, k]
                level = np.int32(nearest(min(max(value * inverse, -REACH), REACH)))
                code = min(max(level + offset, np.int32(0)), top)
                codes[block, k] = code
                difference = np.float32(code - offset) * scale - value
                errors[k] = difference
                weight += value * value
                error += difference * difference
            largest = np.int32(0)
            for k in range(size):
                largest = max(largest, error_bits[k] & np.int32(0x7FFFFFFF))
            error_bits[0] = largest
            sums[0] += weight
            sums[1] += error
            sums[2] = max(sums[2], errors[0])
            if bits == 4:
                for k in range(size // 2):
                    packed[row, block, k] = codes[block, 2 * k] | (codes[block, 2 * k + 1] << 4)
            else:
                for k in range(size):
                    packed[row, block, k] = codes[block, k]
    return 0
