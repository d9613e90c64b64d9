"""A sequence on its way through the parts of an engine's graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class GraphPass:
    """Tokens that pass the graph together.

    Attributes:
        inputs: the graph's inputs but for the caches, by name.
        values: what the parts made so far and later ones take, by name.
    """

    inputs: dict[str, NDArray[np.int64]]
    values: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GraphSequence:
    """One sequence: ``cache_rows`` is what its blocks hold, ``passes`` come in their order."""

    cache_rows: int
    passes: list[GraphPass]

    @classmethod
    def start(
        cls,
        tokens: Sequence[int],
        positions: NDArray[np.int64] | None,
        chunk: int | None,
        block: int,
    ) -> GraphSequence:
        """Return a sequence before the first part.

        Args:
            tokens: T ids.
            positions: int64 ``[T]``, ascending; from 0 when None. They may start later and leave
                gaps between cache blocks: the blocks of the positions in between are absent.
            chunk: tokens of one run, all when None.
            block: cache rows of a block.

        Raises:
            ValueError: there are no tokens, or the positions have a gap within a block.
        """
        count = len(tokens)
        where = np.arange(count) if positions is None else np.asarray(positions, np.int64)
        firsts = where[::block]
        followed = (firsts[:, None] + np.arange(block)).reshape(-1)[:count]
        if not count or not np.array_equal(where, followed) or (firsts % block).any():
            raise ValueError(f"positions may have gaps only between blocks of {block}")
        blocks = len(firsts)
        table = np.full((1, firsts[-1] // block + 1), -1, np.int64)
        table[0, firsts // block] = np.arange(blocks)
        passes = []
        for start in range(0, count, chunk or count):
            rows = np.arange(start, min(start + (chunk or count), count), dtype=np.int64)
            inputs = {
                "input_ids": np.asarray(tokens, np.int64)[rows],
                "positions": where[rows],
                "slots": rows,
                "sequences": np.zeros_like(rows),
                "block_table": table,
                "sample_rows": rows - start,
            }
            passes.append(GraphPass(inputs))
        return cls(blocks * block, passes)
