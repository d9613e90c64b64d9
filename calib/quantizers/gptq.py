"""GPTQ: rounds column by column and lets the later columns make good each column's error.

Source: Frantar et al., GPTQ (arXiv 2210.17323), sections 3.2 to 3.4: the order of columns by the
Hessian's diagonal, the Cholesky factor of its inverse, and lazy updates of blocks of columns. The
grids are chosen before the first column is rounded, so that the order of the columns is free and
blocks stay contiguous in the stored matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trtcoder.calib.storage.blocks import Grid, QuantizedMatrix, pack, stored
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
# Share of the Hessian's mean diagonal that is added to its diagonal.
DAMPING = 0.01
_LAZY = 128


class ColumnOrder:
    """An activation's Hessian, made ready for all matrices that multiply it."""

    def __init__(self, hessian: Floats, where: str, damping: float = DAMPING) -> None:
        """Factor the Hessian ``[K, K]`` of the activation ``where``.

        Raises:
            BuildError: it is not finite, all zeros, or not positive definite after damping.
        """
        diagonal = np.diag(hessian).astype(np.float64)
        mean = float(diagonal.mean())
        if not np.isfinite(mean) or mean <= 0:
            raise BuildError(f"{where}: the Hessian of its activations is zero or not finite")
        self.order = np.argsort(-diagonal, kind="stable")
        ordered = hessian[np.ix_(self.order, self.order)].astype(np.float64)
        ordered[np.diag_indices_from(ordered)] += damping * mean
        try:
            # With P the exchange of first and last, P H P = L L^T gives H^-1 = U^T U for
            # U = P L^-1 P, which is upper triangular.
            lower = np.linalg.cholesky(ordered[::-1, ::-1])
        except np.linalg.LinAlgError as error:
            raise BuildError(
                f"{where}: the Hessian of its activations is not positive definite; "
                "calibrate with more tokens"
            ) from error
        inverse = _lower_inverse(lower)
        self.factor = np.ascontiguousarray(inverse[::-1, ::-1]).astype(np.float32)


def quantize(weights: Floats, columns: ColumnOrder, grid: Grid, scheme: Scheme) -> QuantizedMatrix:
    """Store ``weights`` ``[N, K]`` on ``grid`` with the least error of the matmul."""
    rows, width = weights.shape
    order, factor = columns.order, columns.factor
    left = np.ascontiguousarray(weights[:, order])
    codes = np.empty((rows, width), np.uint8)
    blocks = order // scheme.block_size
    for start in range(0, width, _LAZY):
        stop = min(start + _LAZY, width)
        errors = np.empty((rows, stop - start), np.float32)
        panel = np.ascontiguousarray(left[:, start:stop])
        square = np.ascontiguousarray(factor[start:stop, start:stop])
        found = np.empty((rows, stop - start), np.uint8)
        _round_columns(
            panel, square, blocks[start:stop], grid.scales, grid.zeros, scheme.top, found, errors
        )
        codes[:, order[start:stop]] = found
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    padded = scheme.blocks(width) * scheme.block_size
    whole = np.empty((rows, padded), np.uint8)
    whole[:, :width] = codes
    # Padding stands for zero.
    whole[:, width:] = grid.zeros[:, -1:].astype(np.uint8)
    return stored(pack(whole.reshape(rows, -1, scheme.block_size), scheme.bits), grid, scheme)


def _lower_inverse(lower: NDArray[Any]) -> NDArray[Any]:
    """Return the inverse of a lower triangular matrix, halving it: all work is in matmuls."""
    size = len(lower)
    if size <= 64:
        return np.asarray(np.linalg.inv(lower))
    half = size // 2
    inverse = np.zeros_like(lower)
    first, last = _lower_inverse(lower[:half, :half]), _lower_inverse(lower[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -last @ (lower[half:, :half] @ first)
    return inverse


@njit(nogil=True, cache=True)
def _round_columns(  # type: ignore[no-untyped-def]
    panel, factor, blocks, scales, zeros, top, codes, errors
):
    """Round the columns of ``panel`` ``[N, B]`` in turn; fill ``codes`` and ``errors``."""
    rows, width = panel.shape
    for row in range(rows):
        for k in range(width):
            scale = scales[row, blocks[k]]
            zero = zeros[row, blocks[k]]
            value = panel[row, k]
            level = zero
            if scale != 0:
                level = min(max(np.rint(value / scale) + zero, np.float32(0)), np.float32(top))
            codes[row, k] = np.uint8(level)
            error = (value - (level - zero) * scale) / factor[k, k]
            errors[row, k] = error
            for later in range(k + 1, width):
                panel[row, later] -= error * factor[k, later]
