"""What the engine's loop asks of whatever runs the model."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.manifest import Manifest
from trtcoder.plugins.choice import Choice
from trtcoder.runtime.engine.batch import PackedBatch


class Model(Protocol):
    """A loaded model and its cache, in blocks; `ModelRunner` and `SlotRunner` are such."""

    @property
    def manifest(self) -> Manifest:
        """The engine's."""

    @property
    def block_size(self) -> int:
        """Cache rows of a block."""

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache."""

    @property
    def max_positions(self) -> int:
        """Most tokens of a sequence."""

    @property
    def vocab_size(self) -> int:
        """Logits of a token."""

    @property
    def score_cells(self) -> int:
        """Most tokens x rows of a step that keep attention within its memory."""

    @property
    def choice(self) -> Choice:
        """Whose operators run it."""

    def forward(self, batch: PackedBatch) -> NDArray[np.float32]:
        """Run one batch and write its tokens into the cache; return logits ``[samples, vocab]``.

        The result is a view that the next call overwrites.

        Raises:
            EngineError: it fails, for example for lack of memory.
        """

    def copy_rows(self, source: int, target: int, rows: int) -> None:
        """Copy the first ``rows`` rows of a block to another block, in every cache."""

    def read_block(self, block: int) -> bytes:
        """Return the rows of a block, of every cache one after another."""

    def write_block(self, block: int, data: bytes) -> bool:
        """Set the rows of a block to what `read_block` returned; False where sizes differ."""

    def clear_rows(self, rows: NDArray[np.int64]) -> None:
        """Set cache rows to zero, in every cache."""
