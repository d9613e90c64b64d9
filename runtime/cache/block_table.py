"""The blocks of one sequence in logical order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class BlockTable:
    """A list of blocks, kept as an array too so that a step copies it in one go.

    Attributes:
        blocks: in logical order.
        row: int64, of which the first ``len(blocks)`` entries are ``blocks``.
    """

    __slots__ = ("blocks", "row")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.row: NDArray[np.int64] = np.empty(16, np.int64)

    def __len__(self) -> int:
        return len(self.blocks)

    def append(self, block: int) -> None:
        """Add a block at the end."""
        count = len(self.blocks)
        if count == len(self.row):
            self.row = np.concatenate([self.row, np.empty_like(self.row)])
        self.row[count] = block
        self.blocks.append(block)

    def replace(self, index: int, block: int) -> None:
        """Put another block in the place of one."""
        self.blocks[index] = self.row[index] = block

    def clear(self) -> None:
        """Remove all blocks."""
        self.blocks.clear()
