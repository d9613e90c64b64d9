"""Matrices as the graph wants them, read row range by row range from checkpoint tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint import Checkpoint

# Row ranges of about this many values bound a step's memory: 64 MiB as float32.
CHUNK_VALUES = 1 << 24


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one checkpoint tensor ``[N, K]``, in the given order; all of them when None."""

    tensor: str
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Pieces of equal width, stacked along the rows, and ``padding`` rows of zeros after them."""

    checkpoint: Checkpoint
    pieces: tuple[Piece, ...]
    padding: int = 0

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
        return sum(self._piece_rows(piece) for piece in self.pieces) + self.padding

    @property
    def label(self) -> str:
        """How errors name it."""
        return " + ".join(self.tensors)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return rows ``start`` up to ``stop`` as float32 ``[n, K]``."""
        stop = self.rows if stop is None else stop
        found: list[NDArray[np.float32]] = []
        offset = 0
        for piece in self.pieces:
            count = self._piece_rows(piece)
            first, last = max(start - offset, 0), min(stop - offset, count)
            if first < last:
                rows = slice(first, last) if piece.rows is None else piece.rows[first:last]
                found.append(self.checkpoint.read(piece.tensor, rows))
            offset += count
        zeros = stop - max(start, offset)
        if zeros > 0:
            found.append(np.zeros((zeros, self.width), np.float32))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Return row ranges of at most `CHUNK_VALUES` values."""
        size = max(1, CHUNK_VALUES // self.width)
        for start in range(0, self.rows, size):
            yield start, min(start + size, self.rows)

    def _piece_rows(self, piece: Piece) -> int:
        return self.checkpoint.shape(piece.tensor)[0] if piece.rows is None else len(piece.rows)
