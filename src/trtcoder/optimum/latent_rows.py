"""The cache of a batch as transformers' generation passes it on: where each row's tokens are."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from trtcoder.errors import RequestError
from trtcoder.runtime.cache.block_pool import BlockPool
from trtcoder.runtime.cache.block_table import BlockTable
from trtcoder.runtime.engine.batch import Indices
from trtcoder.runtime.engine.runner import ModelRunner


class LatentRows:
    """Blocks of an engine's cache for every row of a batch; they go back when this is dropped.

    Padding takes no place: a row holds the tokens that its mask has shown, one after another.

    Attributes:
        lengths: tokens of each row that are in the cache.
        columns: columns of the batch that were run, padding included.
    """

    def __init__(self, runner: ModelRunner, pool: BlockPool, num_rows: int) -> None:
        self.lengths = [0] * num_rows
        self.columns = 0
        self._runner = runner
        self._pool = pool
        self._tables = [BlockTable() for _ in range(num_rows)]
        weakref.finalize(self, _release, pool, self._tables)

    def __len__(self) -> int:
        return len(self.lengths)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the columns that were run; transformers' name and argument."""
        return self.columns

    def blocks(self, row: int, num_tokens: int) -> Indices:
        """Return the blocks of a row's first ``num_tokens`` tokens, int64 in logical order."""
        return self._tables[row].row[: -(-num_tokens // self._runner.block_size)]

    def grow(self, row: int, num_tokens: int) -> None:
        """Make place for so many tokens behind those that a row has.

        Raises:
            RequestError: the cache has no such room.
        """
        table, size = self._tables[row], self._runner.block_size
        while len(table) * size < self.lengths[row] + num_tokens:
            table.append(self._allocate())

    def reorder_cache(self, beam_idx: Sequence[int]) -> None:
        """Let row ``i`` go on from what row ``beam_idx[i]`` has; transformers' beam search asks it.

        Whole blocks are shared. The last one, where rows write, goes to one of those that come from
        it, and the others get copies.

        Raises:
            RequestError: the cache has no room for the copies; all rows are given back then.
        """
        size = self._runner.block_size
        sources = [int(source) for source in beam_idx]
        lengths = [self.lengths[source] for source in sources]
        blocks = [list(table.blocks) for table in self._tables]
        following = [BlockTable() for _ in sources]
        copies = []
        taken: set[int] = set()
        for source, target, length in zip(sources, following, lengths, strict=True):
            whole = length // size
            for block in blocks[source][:whole] if source in taken else blocks[source]:
                self._pool.retain(block)
                target.append(block)
            if source in taken and length % size:
                copies.append((blocks[source][whole], target, length % size))
            taken.add(source)
        _release(self._pool, self._tables)  # first, so that copies find the room of rows that end
        self._tables[:] = following
        self.lengths = lengths
        try:
            for block, target, rows in copies:
                target.append(self._allocate())
                self._runner.copy_rows(block, target.blocks[-1], rows)
        except RequestError:
            _release(self._pool, following)
            self.lengths = [0] * len(lengths)
            raise

    def _allocate(self) -> int:
        try:
            return self._pool.allocate()
        except IndexError:
            rows = self._pool.num_blocks * self._runner.block_size
            raise RequestError(
                f"the cache holds {rows:,} tokens, for all rows together, and this batch needs "
                "more; give fewer or shorter rows, or more cache_tokens to from_pretrained"
            ) from None


def _release(pool: BlockPool, tables: list[BlockTable]) -> None:
    for table in tables:
        for block in table.blocks:
            pool.release(block)
        table.clear()
