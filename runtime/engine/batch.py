"""The packed, ragged batch that the graph takes: tokens of all sequences in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
PAD = -1


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence.

    Attributes:
        tokens: the ids.
        start: position of the first.
        blocks: int64, the sequence's cache blocks in logical order.
        samples: the logits of so many of the last tokens are wanted.
    """

    tokens: Sequence[int]
    start: int
    blocks: Indices
    samples: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Inputs of one forward pass, all int64.

    Attributes:
        input_ids: [tokens].
        positions: [tokens], each token's position in its sequence.
        slots: [tokens], the cache row that each token is written to.
        sequences: [tokens], the row of ``block_table`` that each token belongs to.
        block_table: [sequences, blocks], cache blocks in logical order, padded with -1.
        sample_rows: [samples], the packed tokens whose logits are wanted.
    """

    input_ids: Indices
    positions: Indices
    slots: Indices
    sequences: Indices
    block_table: Indices
    sample_rows: Indices

    @classmethod
    def pack(cls, spans: Sequence[Span], block_size: int) -> PackedBatch:
        """Return the batch of ``spans``, in their order."""
        if all(len(span.tokens) == 1 == span.samples for span in spans):
            return cls._of_single_tokens(spans, block_size)
        ids: list[int] = []
        counts = [len(span.tokens) for span in spans]
        for span in spans:
            ids.extend(span.tokens)
        table = _table(spans)
        rows = np.repeat(np.arange(len(spans), dtype=np.int64), counts)
        ends: Indices = np.cumsum(counts, dtype=np.int64)
        starts = np.array([span.start for span in spans], np.int64)
        shifts = np.repeat(starts - (ends - counts), counts)
        positions = np.arange(len(ids), dtype=np.int64)
        positions += shifts
        sample_rows = np.concatenate(
            [np.arange(e - s.samples, e) for s, e in zip(spans, ends, strict=True)]
        )
        slots = table[rows, positions // block_size] * block_size + positions % block_size
        return cls(np.array(ids, np.int64), positions, slots, rows, table, sample_rows)

    @classmethod
    def _of_single_tokens(cls, spans: Sequence[Span], block_size: int) -> PackedBatch:
        """Return the batch of a step of decoding, of which there are a thousand a second.

        Few rows are packed sooner by Python than by NumPy: one array holds all but the table.
        """
        packed = np.array(
            [
                [span.tokens[0] for span in spans],
                [span.start for span in spans],
                [
                    int(span.blocks[span.start // block_size]) * block_size
                    + span.start % block_size
                    for span in spans
                ],
                range(len(spans)),
            ],
            np.int64,
        )
        ids, positions, slots, rows = packed
        return cls(ids, positions, slots, rows, _table(spans), rows)


def _table(spans: Sequence[Span]) -> Indices:
    if len(spans) == 1:
        return spans[0].blocks[None]
    table = np.full((len(spans), max(len(span.blocks) for span in spans)), PAD, np.int64)
    for row, span in enumerate(spans):
        table[row, : len(span.blocks)] = span.blocks
    return table
