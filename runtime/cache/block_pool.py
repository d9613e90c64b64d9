"""Reference counts of cache blocks.

A block is ``block_size`` consecutive rows of every cache array of the graph. Free blocks are
handed out lowest first: with stock kernels attention costs time for every row below the highest
one that is bound.
"""

from __future__ import annotations

import heapq


class BlockPool:
    """Hands out blocks; a block is free when nobody holds it."""

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"a pool of {num_blocks} blocks")
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks))  # a heap

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def references(self, block: int) -> int:
        """Return how many hold a block."""
        return self._references[block]

    def allocate(self) -> int:
        """Return the lowest free block, held once.

        Raises:
            IndexError: no block is free.
        """
        block = heapq.heappop(self._free)
        self._references[block] = 1
        return block

    def retain(self, block: int) -> None:
        """Hold a block once more."""
        if not self._references[block]:
            raise ValueError(f"block {block} is free")
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Hold a block once less."""
        if not self._references[block]:
            raise ValueError(f"block {block} is free")
        self._references[block] -= 1
        if not self._references[block]:
            heapq.heappush(self._free, block)

    def check(self, held: dict[int, int]) -> None:
        """Raise RuntimeError unless the counts are ``held`` and the rest is free."""
        counts = {block: count for block, count in enumerate(self._references) if count}
        if counts != held:
            wrong = {b for b in counts.keys() | held.keys() if counts.get(b) != held.get(b)}
            raise RuntimeError(f"blocks whose count is wrong: {sorted(wrong)}")
        if sorted(self._free) != [b for b in range(self.num_blocks) if not self._references[b]]:
            raise RuntimeError("the list of free blocks is wrong")
