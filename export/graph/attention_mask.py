"""The additive mask by which ONNX Runtime's own operators attend, shared by all layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.inputs import CACHE_BLOCK, Inputs

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL

# A logical position that no token reaches, for blocks that a sequence does not own.
UNREACHABLE = 1 << 40


def attention_bias(b: GraphBuilder, inputs: Inputs) -> ir.Value:
    """Return float32 ``[tokens, rows]``, 0 where a token sees a cache row, -inf elsewhere."""
    return b.once("mask/bias", lambda: _bias(b, inputs))


def _bias(b: GraphBuilder, inputs: Inputs) -> ir.Value:
    """Return the additive mask over the bound cache rows.

    Every block of a sequence learns its first logical position from the block table; a row's
    position follows, and a token sees the rows of its own sequence up to its own position.
    """
    block_table, cache = inputs.block_table, inputs.cache
    cache_rows = b.op("Shape", "mask/cache_shape", [cache], [1], dtype=INT64, start=0, end=1)
    block = b.ints(CACHE_BLOCK)
    blocks_bound = b.op("Div", "mask/blocks_bound", [cache_rows, block], [1], dtype=INT64)
    table_shape = b.op("Shape", "mask/table_shape", [block_table], [2], dtype=INT64)
    count, width = b.multi_op(
        "Split",
        "mask/table_sizes",
        [table_shape, b.ints(1, 1)],
        [("mask/sequences", INT64, [1]), ("mask/blocks", INT64, [1])],
        axis=0,
    )
    # One column more than there are blocks takes the padding of the table.
    columns = b.op("Add", "mask/columns", [blocks_bound, b.ints(1)], [1], dtype=INT64)
    starts = b.op(
        "ConstantOfShape",
        "mask/no_starts",
        [b.op("Concat", "mask/starts_shape", [count, columns], [2], dtype=INT64, axis=0)],
        ["sequences", "columns"],
        dtype=INT64,
        value=ir.tensor(np.array([UNREACHABLE], np.int64)),
    )
    unused = b.op(
        "Less", "mask/unused", [block_table, b.ints(0)], ["sequences", "blocks"], dtype=BOOL
    )
    targets = b.op(
        "Where",
        "mask/targets",
        [unused, blocks_bound, block_table],
        ["sequences", "blocks"],
        dtype=INT64,
    )
    scalar_width = b.op("Squeeze", "mask/width", [width, b.ints(0)], [], dtype=INT64)
    ordinals = b.op(
        "Range",
        "mask/ordinals",
        [
            b.constant(np.array(0, np.int64), "int/0"),
            scalar_width,
            b.constant(np.array(1, np.int64), "int/1"),
        ],
        ["blocks"],
        dtype=INT64,
    )
    firsts = b.op("Mul", "mask/first_positions", [ordinals, block], ["blocks"], dtype=INT64)
    firsts = b.op(
        "Expand", "mask/updates", [firsts, table_shape], ["sequences", "blocks"], dtype=INT64
    )
    starts = b.op(
        "ScatterElements",
        "mask/starts",
        [starts, targets, firsts],
        ["sequences", "columns"],
        dtype=INT64,
        axis=1,
    )
    starts = b.op(
        "Slice",
        "mask/owned_starts",
        [starts, b.ints(0), blocks_bound, b.ints(1)],
        ["sequences", "bound_blocks"],
        dtype=INT64,
    )
    by_token = b.op(
        "Gather",
        "mask/token_starts",
        [starts, inputs.sequences],
        ["tokens", "bound_blocks"],
        dtype=INT64,
        axis=0,
    )
    # A row is seen when start + offset <= position, that is start <= position - offset.
    column = b.op(
        "Unsqueeze", "mask/position", [inputs.positions, b.ints(1)], ["tokens", 1], dtype=INT64
    )
    offsets = b.constant(np.arange(CACHE_BLOCK, dtype=np.int64)[None], "mask/offsets")
    reach = b.op("Sub", "mask/reach", [column, offsets], ["tokens", CACHE_BLOCK], dtype=INT64)
    seen = b.op(
        "LessOrEqual",
        "mask/seen",
        [
            b.op(
                "Unsqueeze",
                "mask/starts_by_block",
                [by_token, b.ints(2)],
                ["tokens", "bound_blocks", 1],
                dtype=INT64,
            ),
            b.op(
                "Unsqueeze",
                "mask/reach_by_block",
                [reach, b.ints(1)],
                ["tokens", 1, CACHE_BLOCK],
                dtype=INT64,
            ),
        ],
        ["tokens", "bound_blocks", CACHE_BLOCK],
        dtype=BOOL,
    )
    bias = b.op(
        "Where",
        "mask/bias_by_block",
        [seen, b.scalar(0.0), b.scalar(float("-inf"))],
        ["tokens", "bound_blocks", CACHE_BLOCK],
        dtype=FLOAT,
    )
    flat = b.op("Concat", "mask/bias_shape", [b.ints(-1), cache_rows], [2], dtype=INT64, axis=0)
    return b.op("Reshape", "mask/bias", [bias, flat], ["tokens", "rows"], dtype=FLOAT)
