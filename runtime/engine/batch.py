"""The packed, ragged batch that the graph takes: tokens of all sequences in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.runtime.cache.blocks import BlockTable

Indices = NDArray[np.int64]


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
    def of_sequence(
        cls, tokens: Sequence[int], table: BlockTable, *, sample: bool = True
    ) -> PackedBatch:
        """Return a batch of the last ``tokens`` of one sequence, already appended to ``table``.

        ``sample`` asks for the logits of the last token.
        """
        stop = table.num_tokens
        start = stop - len(tokens)
        return cls(
            input_ids=np.array(tokens, np.int64),
            positions=np.arange(start, stop, dtype=np.int64),
            slots=table.rows(start, stop),
            sequences=np.zeros(len(tokens), np.int64),
            block_table=np.array([table.blocks], np.int64),
            sample_rows=np.array([len(tokens) - 1] if sample else [], np.int64),
        )
