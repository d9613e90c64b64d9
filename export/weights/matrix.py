"""Matrices as a plan wants them, read row range by row range from checkpoint tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import Checkpoint, widen
from trtcoder.errors import BuildError

# Row ranges of about this many values bound a step's memory: 64 MiB as float32.
CHUNK_VALUES = 1 << 24

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows and columns of one checkpoint tensor ``[N, K]``, in the given order; all when None.

    ``makes`` names an activation whose channels the tensor's rows make, channel n by row n, if a
    scale of that activation divides them (see `trtcoder.calib.quantizers.quantizer.Quantizer`).
    """

    tensor: str
    rows: Indices | None = None
    columns: Indices | None = None
    makes: str | None = None

    def chosen(self, rows: slice) -> slice | Indices:
        """Return which of the tensor's rows are this piece's ``rows``."""
        return rows if self.rows is None else self.rows[rows]

    def shape(self, checkpoint: Checkpoint) -> tuple[int, int]:
        """Return how many rows and columns it has."""
        rows, columns = checkpoint.shape(self.tensor)
        return (
            rows if self.rows is None else len(self.rows),
            columns if self.columns is None else len(self.columns),
        )


@dataclass(frozen=True, slots=True)
class Matrix:
    """Pieces of equal width, stacked along the rows."""

    checkpoint: Checkpoint
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        """Raise BuildError where the pieces have different widths."""
        widths = [piece.shape(self.checkpoint)[1] for piece in self.pieces]
        if len(set(widths)) != 1:
            raise BuildError(f"{self.label}: have widths {widths}; only equal ones can be stacked")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint tensors that it reads."""
        return tuple(piece.tensor for piece in self.pieces)

    @property
    def width(self) -> int:
        """Values a row, K."""
        return self.pieces[0].shape(self.checkpoint)[1]

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return sum(piece.shape(self.checkpoint)[0] for piece in self.pieces)

    @property
    def label(self) -> str:
        """How errors name it."""
        return " + ".join(self.tensors)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return rows ``start`` up to ``stop`` as float32 ``[n, K]``."""
        return widen(self.stored(start, self.rows if stop is None else stop))

    def stored(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows ``start`` up to ``stop`` ``[n, K]``: uint16 bits of bfloat16, or float32."""
        found = []
        for piece, rows, _ in self.parts(start, stop):
            part = self.checkpoint.stored(piece.tensor, piece.chosen(rows))
            found.append(part if piece.columns is None else part.take(piece.columns, axis=1))
        if {part.dtype for part in found} != {np.dtype(np.uint16)}:
            found = [widen(part) for part in found]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def parts(self, start: int, stop: int) -> Iterator[tuple[Piece, slice, slice]]:
        """Return the pieces within rows ``start`` up to ``stop``.

        With each come its own rows, counted from its first, and where they stand in the result.
        """
        offset = 0
        for piece in self.pieces:
            count, _ = piece.shape(self.checkpoint)
            first, last = max(start - offset, 0), min(stop - offset, count)
            if first < last:
                place = offset + first - start
                yield piece, slice(first, last), slice(place, place + last - first)
            offset += count

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Return row ranges of at most `CHUNK_VALUES` values."""
        return ranges(self.rows, max(1, CHUNK_VALUES // self.width))


def ranges(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Return ranges of at most ``size`` that cover ``count``."""
    for start in range(0, count, size):
        yield start, min(start + size, count)
