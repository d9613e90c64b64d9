"""Forward passes of a padded batch by an engine that takes tokens only: padding stays out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import ContextError
from trtcoder.optimum.latent_rows import LatentRows
from trtcoder.runtime.cache.block_pool import BlockPool
from trtcoder.runtime.engine.batch import Indices, PackedBatch, Span
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.sampling.sampler import best_of


class RaggedForward:
    """Runs the tokens of all rows of a batch, in steps that the engine has memory for.

    Attributes:
        context: most tokens of a row.
        pool: the engine's blocks.
        chunk: most tokens of a step.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self.context = min(runner.max_positions, runner.num_blocks * runner.block_size)
        self.pool = BlockPool(runner.num_blocks)
        self.chunk = EngineSettings().chunk
        self._runner = runner

    def empty_rows(self, num_rows: int) -> LatentRows:
        """Return the cache of a batch of which nothing was run."""
        return LatentRows(self._runner, self.pool, num_rows)

    def run(
        self, rows: LatentRows, ids: Indices, shown: NDArray[np.bool_], kept: int
    ) -> NDArray[np.float32]:
        """Run columns of a batch behind what its rows have.

        Args:
            rows: where the earlier columns are; these ones are added.
            ids: int64 ``[rows, columns]``, in the vocabulary where they are shown.
            shown: ``[rows, columns]``, False where there is padding.
            kept: the last columns of which logits are wanted.

        Returns:
            float32 ``[rows, kept, vocab]``, zero where there is padding.

        Raises:
            ContextError: a row grows beyond the context.
            RequestError: the cache has no room for the rows.
            EngineError: ONNX Runtime fails, or values are not finite.
        """
        tokens = [row[mask] for row, mask in zip(ids, shown, strict=True)]
        for length, new in zip(rows.lengths, tokens, strict=True):
            if length + len(new) > self.context:
                raise ContextError(length + len(new), self.context)
        for row, new in enumerate(tokens):
            rows.grow(row, len(new))
        places = [np.flatnonzero(columns) for columns in shown[:, ids.shape[1] - kept :]]
        logits = np.zeros((len(ids), kept, self._runner.vocab_size), np.float32)
        done = [0] * len(tokens)
        for step in self._steps(rows, tokens, [len(each) for each in places]):
            spans = [span for _, span in step]
            found = self._runner.forward(PackedBatch.pack(spans, self._runner.block_size))
            best_of(found)  # raises where a value is not finite
            end = 0
            for row, span in step:
                start, end = end, end + span.samples
                logits[row, places[row][done[row] : done[row] + span.samples]] = found[start:end]
                done[row] += span.samples
        for row, new in enumerate(tokens):
            rows.lengths[row] += len(new)
        rows.columns += ids.shape[1]
        return logits

    def _steps(
        self, rows: LatentRows, tokens: Sequence[Indices], wanted: Sequence[int]
    ) -> Iterator[list[tuple[int, Span]]]:
        """Yield the spans of each step with their rows; so many last tokens of each are wanted."""
        room = most = self._most(rows, tokens)
        step: list[tuple[int, Span]] = []
        for row, new in enumerate(tokens):
            start = 0
            while start < len(new):
                stop = min(len(new), start + room)
                first = rows.lengths[row] + start
                samples = max(0, stop - max(start, len(new) - wanted[row]))
                blocks = rows.blocks(row, first + stop - start)
                step.append((row, Span(new[start:stop].tolist(), first, blocks, samples)))
                room -= stop - start
                start = stop
                if not room:
                    yield step
                    step, room = [], most
        if step:
            yield step

    def _most(self, rows: LatentRows, tokens: Sequence[Indices]) -> int:
        """Return the most tokens of a step: attention may keep scores for all bound rows."""
        needed = [rows.blocks(row, rows.lengths[row] + len(new)) for row, new in enumerate(tokens)]
        bound = 1 + max((int(each.max()) for each in needed if each.size), default=0)
        return max(
            1, min(self.chunk, self._runner.score_cells // (bound * self._runner.block_size))
        )
