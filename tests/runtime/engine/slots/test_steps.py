"""Packed batches become steps that plans take, and no token is lost or out of order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.slots.steps import WINDOW, steps_of

CONTEXT = 300


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 90)), min_size=1, max_size=8),
    st.permutations(range(8)),
    st.integers(1, 64),
)
def test_every_token_runs_once_in_its_slot_and_order(
    sequences: list[tuple[int, int]], slots: list[int], chunk: int
) -> None:
    spans = [
        Span(list(range(count)), start, np.array([slot], np.int64), 1)
        for (start, count), slot in zip(sequences, slots, strict=False)
    ]
    batch = PackedBatch.pack(spans, CONTEXT)
    written: dict[int, list[int]] = {slot: [] for slot in slots}
    seen = []
    for step in steps_of(batch, CONTEXT, chunk):
        first, stop = step.slots
        assert step.places.shape == (stop - first, len(step.rows) // (stop - first))
        # All slots with a token each, or one slot with a chunk.
        assert step.places.shape[1] == 1 or stop - first == 1
        assert step.places.shape[1] <= chunk
        assert step.window <= CONTEXT
        assert step.window % WINDOW == 0 or step.window == CONTEXT
        for row, place, slot in zip(
            step.rows.tolist(),
            step.places.ravel().tolist(),
            np.repeat(np.arange(first, stop), step.places.shape[1]).tolist(),
            strict=True,
        ):
            if row < 0:
                # A slot that rests writes behind all rows.
                assert place == CONTEXT
                continue
            assert place < step.window
            seen.append(row)
            assert slot == batch.block_table[batch.sequences[row], 0]
            assert place == batch.positions[row]
            written[slot].append(place)
    assert sorted(seen) == list(range(len(batch.input_ids)))
    for span in spans:
        found = written[int(span.blocks[0])]
        assert found == list(range(span.start, span.start + len(span.tokens)))
