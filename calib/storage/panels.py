"""Matrices in panels of sixteen rows, in the storage layout of our own kernels.

`plugins/kernels/matrix.h` describes it. Between it and the rows of blocks of `blocks.py`, or of
float32, bytes move but do not change, so the runtime's own operators can read it behind a
transposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage.blocks import QuantizedMatrix
from trtcoder.calib.storage.scheme import Scheme

PANEL = 16
# Columns of a block that the kernels take.
BLOCKS = (32, 64, 128)

_Stored = TypeVar("_Stored", bound=np.generic)


def to_panels(matrix: QuantizedMatrix, scheme: Scheme) -> QuantizedMatrix:
    """Return the matrix in panels; rows that fill the last panel have scale 0.

    ``packed`` becomes uint8 ``[panels, blocks * block_size * 16 * bits / 8]``, ``scales`` float16
    ``[panels, blocks * 16]``, ``zero_points`` uint8 ``[panels, ceil(blocks * bits / 8) * 16]``.
    """
    packed, scales, zeros = _filled(matrix.packed), _filled(matrix.scales), matrix.zero_points
    panels, blocks = len(packed) // PANEL, scales.shape[1]
    if scheme.bits == 4:
        eights = packed.reshape(panels, PANEL, blocks, -1, 4)
        codes = eights.transpose(0, 2, 3, 1, 4)
    else:
        # The even columns of each eight lie before the odd ones.
        pairs = packed.reshape(panels, PANEL, blocks, -1, 4, 2)
        codes = pairs.transpose(0, 2, 3, 5, 1, 4)
    return QuantizedMatrix(
        packed=np.ascontiguousarray(codes).reshape(panels, -1),
        scales=_columns_first(scales),
        zero_points=None if zeros is None else _columns_first(_filled(zeros)),
    )


def float_panels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 ``[N, K]`` in panels, ``[panels, K * 16]``; rows that fill the last are 0."""
    return _columns_first(_filled(values))


@dataclass(frozen=True, slots=True)
class PanelShape:
    """Sizes of a panel's parts, each ``[columns, 16 rows]`` with the innermost axes last.

    Attributes:
        codes: of 4 bits ``(eights, 16, 4)``, of 8 bits ``(eights, 2, 16, 4)``: bytes; of 32 bits
            ``(K, 16)``: float32.
        scales: ``(blocks, 16)``: float16; None of 32 bits.
        zeros: ``(bytes a row, 16)``, None when symmetric, and of 32 bits.
    """

    codes: tuple[int, ...]
    scales: tuple[int, ...] | None
    zeros: tuple[int, ...] | None


def panel_shape(width: int, scheme: Scheme) -> PanelShape:
    """Return the shape of panels whose rows have ``width`` values."""
    if scheme.is_float:
        return PanelShape(codes=(width, PANEL), scales=None, zeros=None)
    blocks = scheme.blocks(width)
    eights = blocks * scheme.block_size // 8
    return PanelShape(
        codes=(eights, PANEL, 4) if scheme.bits == 4 else (eights, 2, PANEL, 4),
        scales=(blocks, PANEL),
        zeros=None if scheme.symmetric else (-(-blocks * scheme.bits // 8), PANEL),
    )


def lengthened(panels: NDArray[_Stored], count: int) -> NDArray[_Stored]:
    """Return what panels store, ``[panels, values]``, with zeros behind it up to ``count``."""
    return _filled(panels, count)


def alternating(first: NDArray[_Stored], second: NDArray[_Stored]) -> NDArray[_Stored]:
    """Return what two matrices' panels store as one: that of the first, then one of the second."""
    return np.stack([first, second], axis=1).reshape(2 * len(first), -1)


def _filled(rows: NDArray[_Stored], multiple: int = PANEL) -> NDArray[_Stored]:
    """Return the rows with zeros behind them up to a multiple of so many: a whole panel."""
    missing = -len(rows) % multiple
    return np.pad(rows, [(0, missing), *[(0, 0)] * (rows.ndim - 1)]) if missing else rows


def _columns_first(rows: NDArray[_Stored]) -> NDArray[_Stored]:
    """Return ``[N, columns]`` as ``[panels, columns * 16]``, row by row within a column."""
    panels = rows.reshape(-1, PANEL, rows.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(panels).reshape(len(panels), -1)
