"""Matrices as the graph wants them, read row range by row range from checkpoint tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import Checkpoint, widen

# Row ranges of about this many values bound a step's memory: 64 MiB as float32.
CHUNK_VALUES = 1 << 24


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one checkpoint tensor ``[N, K]``, in the given order; all of them when None.

    ``makes`` is the site of the activation whose channels these rows make, if a scale of that site
    divides them (see `trtcoder.calib.quantizers.quantizer.Quantizer`).
    """

    tensor: str
    rows: NDArray[np.int64] | None = None
    makes: str | None = None

    def chosen(self, rows: slice) -> slice | NDArray[np.int64]:
        """Return which of the tensor's rows are this piece's ``rows``."""
        return rows if self.rows is None else self.rows[rows]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Pieces of equal width, stacked along the rows."""

    checkpoint: Checkpoint
    pieces: tuple[Piece, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint tensors that it reads."""
        return tuple(piece.tensor for piece in self.pieces)

    @property
    def width(self) -> int:
        """Values a row, K."""
        return self.checkpoint.shape(self.pieces[0].tensor)[1]

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return sum(self._piece_rows(piece) for piece in self.pieces)

    @property
    def label(self) -> str:
        """How errors name it."""
        return " + ".join(self.tensors)

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        scale: Callable[[str], NDArray[np.float32] | None] = lambda site: None,
    ) -> NDArray[np.float32]:
        """Return rows ``start`` up to ``stop`` as float32 ``[n, K]``.

        Rows that make a site's channels are divided by its scale.
        """
        found: list[NDArray[np.float32]] = []
        for piece, rows, _ in self.parts(start, self.rows if stop is None else stop):
            values = self.checkpoint.read(piece.tensor, piece.chosen(rows))
            divisor = None if piece.makes is None else scale(piece.makes)
            if divisor is not None:
                values /= divisor[rows, None]
            found.append(values)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def stored(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows ``start`` up to ``stop`` ``[n, K]``: uint16 bits of bfloat16, or float32."""
        found = [
            self.checkpoint.stored(piece.tensor, piece.chosen(rows))
            for piece, rows, _ in self.parts(start, stop)
        ]
        if {part.dtype for part in found} != {np.dtype(np.uint16)}:
            found = [widen(part) for part in found]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def parts(self, start: int, stop: int) -> Iterator[tuple[Piece, slice, slice]]:
        """Return the pieces within rows ``start`` up to ``stop``.

        With each come its own rows, counted from its first, and where they stand in the result.
        """
        offset = 0
        for piece in self.pieces:
            count = self._piece_rows(piece)
            first, last = max(start - offset, 0), min(stop - offset, count)
            if first < last:
                place = offset + first - start
                yield piece, slice(first, last), slice(place, place + last - first)
            offset += count

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Return row ranges of at most `CHUNK_VALUES` values."""
        size = max(1, CHUNK_VALUES // self.width)
        for start in range(0, self.rows, size):
            yield start, min(start + size, self.rows)

    def _piece_rows(self, piece: Piece) -> int:
        return self.checkpoint.shape(piece.tensor)[0] if piece.rows is None else len(piece.rows)
