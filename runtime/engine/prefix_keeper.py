"""Blocks between an engine's cache and the store that outlives it."""

from __future__ import annotations

from trtcoder.runtime.cache.prefix_store import PrefixStore
from trtcoder.runtime.engine.model import Model
from trtcoder.runtime.scheduler.sequence import Sequence

# Shorter prompts are computed sooner than they are read.
_LONG = 64


class PrefixKeeper:
    """Reads the blocks of a sequence that begins, and writes those of one that ends."""

    def __init__(self, store: PrefixStore, runner: Model) -> None:
        self._store = store
        self._runner = runner

    def restore(self, sequence: Sequence, known: int) -> int:
        """Fill blocks of a sequence behind the first ``known``; return how many."""
        size, count = self._runner.block_size, 0
        keys = self._store.keys(sequence.salt, sequence.tokens[:-1], size)
        for index, key in enumerate(keys):
            if index < known:
                continue
            if not self._store.has(key):
                break
            # Behind a damaged file the others are read too, so that all that are bad are forgotten.
            data = self._store.read(key)
            if data is None or index > known + count:
                continue
            count += self._runner.write_block(sequence.table.blocks[index], data)
        return count

    def keep(self, sequence: Sequence) -> None:
        """Hand the whole blocks of a sequence, which are known to be good, to the store."""
        size = self._runner.block_size
        if sequence.num_prompt < _LONG:
            return
        tokens = sequence.tokens[: sequence.num_published * size]
        keys = self._store.keys(sequence.salt, tokens, size)
        for block, key in zip(sequence.table.blocks, keys, strict=False):
            if not self._store.has(key):
                self._store.write(key, self._runner.read_block(block))

    def close(self) -> None:
        """Write what is waiting."""
        self._store.close()
