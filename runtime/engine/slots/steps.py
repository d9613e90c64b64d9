"""A packed batch as steps that plans take: all slots with a token each, or a chunk of one slot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.runtime.engine.batch import PackedBatch

# Windows are multiples of so many rows, so that a plan sees few different sizes.
WINDOW = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One run of the plans.

    Attributes:
        slots: the first slot and the one behind the last.
        rows: int64 ``[tokens]``, the packed tokens; -1 for a slot that rests.
        places: int64 ``[slots, length]``, the row of its slot that each token is written to.
        window: rows that attention reads.
    """

    slots: tuple[int, int]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    window: int


def steps_of(batch: PackedBatch, context: int, chunk: int) -> Iterator[Step]:
    """Return what runs a batch in which a sequence's block is its slot, of ``context`` rows.

    Tokens of one sequence come in their order. A slot that rests writes to the row behind the
    others, which nobody reads.
    """
    counts = np.bincount(batch.sequences, minlength=len(batch.block_table))
    firsts = np.cumsum(counts) - counts
    slots = batch.block_table[:, 0]
    single = np.flatnonzero(counts == 1)
    if len(single):
        number = int(slots[single].max()) + 1
        rows = np.full(number, -1, np.int64)
        rows[slots[single]] = firsts[single]
        places = np.full((number, 1), context, np.int64)
        places[slots[single], 0] = batch.positions[firsts[single]]
        last = int(batch.positions[firsts[single]].max())
        yield Step((0, number), rows, places, _window(last, context))
    for sequence in np.flatnonzero(counts > 1).tolist():
        start, slot = int(firsts[sequence]), int(slots[sequence])
        stop = start + int(counts[sequence])
        for first in range(start, stop, chunk):
            rows = np.arange(first, min(first + chunk, stop), dtype=np.int64)
            places = batch.positions[rows]
            window = _window(int(places[-1]), context)
            yield Step((slot, slot + 1), rows, places[None], window)


def _window(last: int, context: int) -> int:
    return min(context, (last // WINDOW + 1) * WINDOW)
