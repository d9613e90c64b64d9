"""Clipping search: the grid of each block that loses least on the activations that were seen.

The largest value of a block sets its steps. Where that value is an outlier, smaller steps serve
the block better, although they clip it. Candidate grids are tried block by block; each candidate
is improved once by the scale that fits its codes best (weighted least squares).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trtcoder.calib.blocks import Grid, grid_of, grouped, stored_scales
from trtcoder.calib.rounding import round_to_nearest
from trtcoder.calib.scheme import Scheme
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
        blocks, np.ascontiguousarray(channel), scheme.top, scheme.middle, scheme.symmetric, SPANS,
        start.scales, start.zeros, scales, zeros,
    )  # fmt: skip
    return Grid(stored_scales(scales, where), zeros)


@njit(nogil=True, cache=True)
def _search(  # type: ignore[no-untyped-def]
    blocks, channel, top, middle, symmetric, spans, first_scales, first_zeros, scales, zeros
):
    """Fill ``scales`` and ``zeros`` ``[N, blocks]``."""
    rows, count, size = blocks.shape
    for row in range(rows):
        for index in range(count):
            values = blocks[row, index]
            weight = channel[index]
            low = np.float32(0)
            high = np.float32(0)
            for k in range(size):
                low = min(low, values[k])
                high = max(high, values[k])
            best_scale = first_scales[row, index]
            best_zero = first_zeros[row, index]
            best = _error(values, weight, best_scale, best_zero, top)
            if high > low and best_scale != 0:
                for span in spans:
                    for side in range(2):
                        if symmetric:
                            extreme = max(-low, high) * span
                            # The side with one code more is the negative one, or, by a scale
                            # below zero, the positive one.
                            scale = extreme / middle if side == 0 else -extreme / middle
                            zero = np.float32(middle)
                        else:
                            # Clip both ends, or only the longer one.
                            short = np.float32(1) if side == 0 else span
                            if -low > high:
                                bottom, above = low * span, high * short
                            else:
                                bottom, above = low * short, high * span
                            scale = (above - bottom) / top
                            zero = np.float32(0)
                            if scale > 0:
                                zero = min(max(np.rint(-bottom / scale), zero), np.float32(top))
                        scale = _fitted(values, weight, np.float32(scale), np.float32(zero), top)
                        error = _error(values, weight, scale, np.float32(zero), top)
                        if error < best:
                            best, best_scale, best_zero = error, scale, np.float32(zero)
            scales[row, index] = best_scale
            zeros[row, index] = best_zero


@njit(nogil=True, cache=True)
def _fitted(values, weight, scale, zero, top):  # type: ignore[no-untyped-def]
    """Return the scale that fits the codes which ``scale`` gives: sum(h w c) / sum(h c^2)."""
    if scale == 0:
        return scale
    inverse = np.float32(1) / scale
    product = np.float32(0)
    square = np.float32(0)
    for k in range(values.size):
        code = min(max(np.rint(values[k] * inverse) + zero, np.float32(0)), np.float32(top)) - zero
        product += weight[k] * values[k] * code
        square += weight[k] * code * code
    return product / square if square > 0 else scale


@njit(nogil=True, cache=True)
def _error(values, weight, scale, zero, top):  # type: ignore[no-untyped-def]
    inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
    error = np.float32(0)
    for k in range(values.size):
        code = min(max(np.rint(values[k] * inverse) + zero, np.float32(0)), np.float32(top)) - zero
        difference = values[k] - code * scale
        error += weight[k] * difference * difference
    return error
