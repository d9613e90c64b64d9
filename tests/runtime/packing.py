"""Batches of one sequence, for tests that drive the runner by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.host_binding import HostBinding
from trtcoder.runtime.engine.runner import ModelRunner


class ByHand:
    """One sequence in blocks of its own, which nobody else may use."""

    def __init__(self, runner: ModelRunner, first_block: int = 0) -> None:
        self.runner = runner
        self.first = first_block
        self.num_tokens = 0

    def span(self, tokens: Sequence[int], samples: int = 1) -> Span:
        """Return the sequence's next tokens, and count them."""
        start = self.num_tokens
        self.num_tokens += len(tokens)
        count = -(-self.num_tokens // self.runner.block_size)
        blocks = np.arange(self.first, self.first + count, dtype=np.int64)
        return Span(list(tokens), start, blocks, samples)

    def run(self, tokens: Sequence[int]) -> np.ndarray:
        """Run the next tokens; return a copy of the last one's logits."""
        batch = PackedBatch.pack([self.span(tokens)], self.runner.block_size)
        return np.array(self.runner.forward(batch)[0])


def on_host(runner: ModelRunner) -> HostBinding:
    """Return the buffers of a runner on the CPU."""
    assert isinstance(runner._binding, HostBinding)
    return runner._binding
