"""Clipping search: the grid of each block that loses least on the activations that were seen.

The largest value of a block sets its steps. Where that value is an outlier, smaller steps serve
the block better, although they clip it. Candidate grids are tried block by block; each candidate
is improved once by the scale that fits its codes best (weighted least squares).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trtcoder.calib.quantizers.rounding import REACH, nearest, round_to_nearest
from trtcoder.calib.storage.blocks import Grid, grid_of, grouped, stored_scales
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
# Shares of the block's range that the codes span.
SPANS = np.linspace(0.60, 1.05, 19, dtype=np.float32)


def clipped_grid(weights: Floats, importance: Floats | None, scheme: Scheme, where: str) -> Grid:
    """Return the grid with the least error ``sum h_k (w_k - stored_k)^2`` in each block.

    Args:
        weights: ``[N, K]``.
        importance: ``[K]``, h: the mean square of each channel of the activations that the matrix
            multiplies; ones when None.
        scheme: how the matrix is stored.
        where: the tensor's name, for errors.

    Raises:
        BuildError: a weight or an importance is not finite.
    """
    if not np.isfinite(weights).all():
        raise BuildError(f"{where}: holds values that are not finite; the checkpoint is damaged")
    width = weights.shape[1]
    if importance is None:
        importance = np.ones(width, np.float32)
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise BuildError(f"{where}: the importance of a channel is negative or not finite")
    blocks = np.ascontiguousarray(grouped(weights, scheme))
    # Channels that were never active still count a little, so that their weights are kept too.
    floor = (importance + max(1e-6 * float(importance.max()), 1e-30)).astype(np.float32)
    channel = grouped(floor[None], scheme)[0]
    start = grid_of(round_to_nearest(weights, scheme, where)[0], scheme)
    scales = np.empty(blocks.shape[:2], np.float32)
    zeros = np.empty_like(scales)
    _search(
        blocks, np.ascontiguousarray(channel), scheme.top, scheme.middle, scheme.symmetric,
        scheme.positive_scales, SPANS,
        start.scales, start.zeros, scales, zeros,
    )  # fmt: skip
    return Grid(stored_scales(scales, scheme, where), zeros)


# `reassoc` lets sums run in vectors, `nnan` minima and maxima: values are known to be finite.
_FAST = {"reassoc", "nnan", "nsz"}


@njit(nogil=True, cache=True, fastmath=_FAST)
def _search(  # type: ignore[no-untyped-def]
    blocks,
    channel,
    top,
    middle,
    symmetric,
    positive,
    spans,
    first_scales,
    first_zeros,
    scales,
    zeros,
):
    """Fill ``scales`` and ``zeros`` ``[N, blocks]``."""
    rows, count, size = blocks.shape
    top = np.float32(top)
    for row in range(rows):
        for index in range(count):
            low = np.float32(0)
            high = np.float32(0)
            for k in range(size):
                low = min(low, blocks[row, index, k])
                high = max(high, blocks[row, index, k])
            best_scale = first_scales[row, index]
            best_zero = first_zeros[row, index]
            best = _error(blocks, channel, row, index, best_scale, best_zero, top)
            if high > low and best_scale != 0:
                for span in spans:
                    for side in range(2):
                        zero = np.float32(middle)
                        if symmetric:
                            # The side with one code more is the negative one, or, by a scale
                            # below zero, the positive one.
                            scale = max(-low, high) * span / np.float32(middle)
                            if side == 1:
                                scale = (
                                    max(low / np.float32(-8), high / np.float32(7)) * span
                                    if positive
                                    else -scale
                                )
                        else:
                            # Clip both ends, or only the longer one.
                            short = np.float32(1) if side == 0 else span
                            shrinks_low = -low > high
                            bottom = low * (span if shrinks_low else short)
                            above = high * (short if shrinks_low else span)
                            scale = (above - bottom) / top
                            zero = np.float32(0)
                            if scale > 0:
                                zero = min(max(np.rint(-bottom / scale), zero), top)
                        scale = _fitted(blocks, channel, row, index, scale, zero, top)
                        error = _error(blocks, channel, row, index, scale, zero, top)
                        if error < best:
                            best, best_scale, best_zero = error, scale, zero
            scales[row, index] = best_scale
            zeros[row, index] = best_zero


@njit(nogil=True, cache=True, fastmath=_FAST, inline="always")
def _fitted(blocks, channel, row, index, scale, zero, top):  # type: ignore[no-untyped-def]
    """Return the scale that fits the codes which ``scale`` gives: sum(h w c) / sum(h c^2)."""
    inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
    product = np.float32(0)
    square = np.float32(0)
    for k in range(blocks.shape[2]):
        steps = min(max(blocks[row, index, k] * inverse, -REACH), REACH)
        level = nearest(steps) + zero
        code = min(max(level, np.float32(0)), top) - zero
        weighted = channel[index, k] * code
        product += weighted * blocks[row, index, k]
        square += weighted * code
    return product / square if square > 0 else scale


@njit(nogil=True, cache=True, fastmath=_FAST, inline="always")
def _error(blocks, channel, row, index, scale, zero, top):  # type: ignore[no-untyped-def]
    inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
    error = np.float32(0)
    for k in range(blocks.shape[2]):
        steps = min(max(blocks[row, index, k] * inverse, -REACH), REACH)
        level = nearest(steps) + zero
        code = min(max(level, np.float32(0)), top) - zero
        difference = blocks[row, index, k] - code * scale
        error += channel[index, k] * difference * difference
    return error
