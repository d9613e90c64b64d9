"""Round-to-nearest block quantization: the grid from the block's own extremes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.blocks import Grid, QuantizedMatrix, encode, grouped, inverse, stored_scales
from trtcoder.calib.scheme import Scheme
from trtcoder.errors import BuildError


def quantize(weights: NDArray[np.float32], scheme: Scheme, where: str) -> QuantizedMatrix:
    """Quantize ``weights`` ``[N, K]`` to the nearest representable values.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite.
    """
    return encode(weights, nearest_grid(weights, scheme, where), scheme)


def nearest_grid(weights: NDArray[np.float32], scheme: Scheme, where: str) -> Grid:
    """Return the grid on which the extremes of each block lie.

    A symmetric 4-bit block maps its value of largest magnitude to -8, so that the scale may be
    negative and all 16 levels are used. A symmetric 8-bit block maps it to +-127.

    Raises:
        BuildError: ``where`` (the tensor's name) holds a value that is not finite.
    """
    if not np.isfinite(weights).all():
        raise BuildError(f"{where}: holds values that are not finite; the checkpoint is damaged")
    blocks = grouped(weights, scheme)
    if scheme.symmetric:
        scales = stored_scales(_symmetric_scales(blocks, scheme.bits), where)
        return Grid(scales, np.full(scales.shape, scheme.middle, np.float32))
    low = np.minimum(blocks.min(axis=2), 0)
    high = np.maximum(blocks.max(axis=2), 0)
    scales = stored_scales((high - low) / np.float32(scheme.top), where)
    return Grid(scales, np.clip(np.rint(-low * inverse(scales)), 0, scheme.top))


def _symmetric_scales(blocks: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    if bits == 8:
        largest: NDArray[np.float32] = np.abs(blocks).max(axis=2)
        return largest / np.float32(127)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    extreme: NDArray[np.float32] = np.where(-low > high, low, high)
    return extreme / np.float32(-8)
