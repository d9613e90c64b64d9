"""Which cache rows a sequence owns: a block allocator and one block table a sequence.

A block is ``block_size`` consecutive rows of every cache array of the graph. Free blocks are
handed out lowest first, because attention costs time for every row below the highest one in use.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

PAD = -1


class LatentCache:
    """Hands out blocks of latent cache rows; a block has at most one owner."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a cache of {num_blocks} blocks of {block_size} rows")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._returned: list[int] = []  # a heap of blocks below the ones never handed out
        self._num_handed_out = 0
        self._used: set[int] = set()
        self._blocks_in_view = 0

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody owns."""
        return self.num_blocks - len(self._used)

    @property
    def num_rows(self) -> int:
        """Rows of the whole cache: the most tokens that it can hold."""
        return self.num_blocks * self.block_size

    @property
    def rows_in_view(self) -> int:
        """Rows up to the end of the highest block in use."""
        return self._blocks_in_view * self.block_size

    def allocate(self) -> int | None:
        """Return the lowest free block, or None when all are in use."""
        if self._returned:
            block = heapq.heappop(self._returned)
        elif self._num_handed_out < self.num_blocks:
            block = self._num_handed_out
            self._num_handed_out += 1
        else:
            return None
        self._used.add(block)
        self._blocks_in_view = max(self._blocks_in_view, block + 1)
        return block

    def free(self, block: int) -> None:
        """Take a block back."""
        if block not in self._used:
            raise ValueError(f"block {block} is not in use")
        self._used.remove(block)
        heapq.heappush(self._returned, block)
        while self._blocks_in_view and self._blocks_in_view - 1 not in self._used:
            self._blocks_in_view -= 1


class BlockTable:
    """The blocks of one sequence in logical order, and how many tokens they hold."""

    def __init__(self, cache: LatentCache) -> None:
        self.cache = cache
        self.blocks: list[int] = []
        self.num_tokens = 0

    @property
    def capacity(self) -> int:
        """Tokens that fit into the blocks owned now."""
        return len(self.blocks) * self.cache.block_size

    def append(self, num_tokens: int) -> bool:
        """Make room for more tokens; False, and nothing changes, when the cache is full."""
        missing = self._blocks_for(self.num_tokens + num_tokens) - len(self.blocks)
        if missing > self.cache.num_free_blocks:
            return False
        for _ in range(missing):
            block = self.cache.allocate()
            if block is None:
                raise RuntimeError("the cache counted free blocks that it does not have")
            self.blocks.append(block)
        self.num_tokens += num_tokens
        return True

    def truncate(self, num_tokens: int) -> None:
        """Forget the tokens from ``num_tokens`` on and free the blocks that held only those."""
        if not 0 <= num_tokens <= self.num_tokens:
            raise ValueError(f"cannot truncate {self.num_tokens} tokens to {num_tokens}")
        keep = self._blocks_for(num_tokens)
        for block in reversed(self.blocks[keep:]):
            self.cache.free(block)
        del self.blocks[keep:]
        self.num_tokens = num_tokens

    def free(self) -> None:
        """Free every block."""
        self.truncate(0)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the cache row of each token from ``start`` up to ``stop``, int64."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise ValueError(f"tokens {start} to {stop} of {self.num_tokens}")
        size = self.cache.block_size
        tokens = np.arange(start, stop, dtype=np.int64)
        first = start // size
        blocks = np.array(self.blocks[first : self._blocks_for(stop)], dtype=np.int64)
        return blocks[tokens // size - first] * size + tokens % size

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.cache.block_size)
