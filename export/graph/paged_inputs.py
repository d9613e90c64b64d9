"""What `PagedAttention` takes of the packed batch, beside the cache."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.export.graph.builder import GraphBuilder

INT32 = ir.DataType.INT32


@dataclass(frozen=True, slots=True)
class PagedInputs:
    """All int32.

    Attributes:
        query_starts: ``[sequences + 1]``, the first packed token of each sequence, and their end.
        past_lengths: ``[sequences]``, tokens of each sequence before its first one here.
        block_table: ``[sequences, blocks]``.
        slots: ``[tokens]``, the cache row of each token.
        metadata: ``[3]``, in the CPU's memory: the most tokens of a sequence here, the most in
            all, and 0 for the fewest, which is not known.
    """

    query_starts: ir.Value
    past_lengths: ir.Value
    block_table: ir.Value
    slots: ir.Value
    metadata: ir.Value


def declare_paged_inputs(b: GraphBuilder, slots: ir.Value, block_table: ir.Value) -> PagedInputs:
    """Declare what only this operator takes; the rest becomes int32, once for all layers."""
    return PagedInputs(
        query_starts=b.input("query_starts", INT32, ["sequences + 1"]),
        past_lengths=b.input("past_lengths", INT32, ["sequences"]),
        block_table=b.cast(block_table, "batch/block_table", ["sequences", "blocks"], INT32),
        slots=b.cast(slots, "batch/slots", ["tokens"], INT32),
        metadata=b.input("attention_metadata", INT32, [3]),
    )
