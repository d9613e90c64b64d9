"""The graph's inputs, and what every layer derives from them once a step.

The batch is packed and ragged: the tokens of all sequences stand in one row. `slots` and
`block_table` say where each sequence's entries are in the cache: our attention reads them so, and
for ONNX Runtime's own operators they become one additive mask that all layers share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.graph.builder import Dim, GraphBuilder

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL

# Cache rows a block.
CACHE_BLOCK = 16

# A logical position that no token reaches, for blocks that a sequence does not own.
UNREACHABLE = 1 << 40


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs ``[tokens]``, and the values derived from them.

    Attributes:
        slots: int64, the cache row of each token.
        block_table: int64 ``[sequences, blocks]``.
        cos, sin: float32 ``[1, tokens, rope / 2]``.
        cache: any layer's cache, ``[rows, width]``.
    """

    input_ids: ir.Value
    positions: ir.Value
    slots: ir.Value
    sequences: ir.Value
    block_table: ir.Value
    sample_rows: ir.Value
    cos: ir.Value
    sin: ir.Value
    cache: ir.Value

    def slot_column(self, b: GraphBuilder) -> ir.Value:
        """Return the slots as ScatterND takes them, ``[tokens, 1]``."""
        return b.once(
            "batch/slots",
            lambda: b.op(
                "Unsqueeze", "batch/slots", [self.slots, b.ints(1)], ["tokens", 1], dtype=INT64
            ),
        )

    def bias(self, b: GraphBuilder) -> ir.Value:
        """Return float32 ``[tokens, rows]``, 0 where a token sees a cache row, -inf elsewhere."""
        return b.once(
            "mask/bias",
            lambda: _attention_bias(
                b, self.positions, self.sequences, self.block_table, self.cache
            ),
        )


def declare_inputs(
    b: GraphBuilder, frequencies: NDArray[np.float32], rotary_scale: float, cache: ir.Value
) -> Inputs:
    """Declare the inputs, and the rotary angles that all layers share.

    Args:
        b: the graph.
        frequencies: the rotary embedding's radians a position, ``[rope / 2]``.
        rotary_scale: what cos and sin are multiplied with.
        cache: any layer's cache, ``[rows, width]``; its length says how many rows are bound.
    """
    input_ids = b.input("input_ids", INT64, ["tokens"])
    positions = b.input("positions", INT64, ["tokens"])
    slots = b.input("slots", INT64, ["tokens"])
    sequences = b.input("sequences", INT64, ["tokens"])
    block_table = b.input("block_table", INT64, ["sequences", "blocks"])
    sample_rows = b.input("sample_rows", INT64, ["samples"])
    cos, sin = _rotary(b, frequencies, rotary_scale, positions)
    return Inputs(
        input_ids=input_ids,
        positions=positions,
        slots=slots,
        sequences=sequences,
        block_table=block_table,
        sample_rows=sample_rows,
        cos=cos,
        sin=sin,
        cache=cache,
    )


def rotate(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    heads: int,
    rope: int,
    cos: ir.Value,
    sin: ir.Value,
) -> ir.Value:
    """Rotate interleaved pairs of ``x`` ``[tokens, heads * rope]`` by the tokens' positions.

    ``cos`` and ``sin`` are ``[1, tokens, rope / 2]``.
    """
    width = heads * rope
    batched = b.op("Unsqueeze", f"{name}/batched", [x, b.ints(0)], [1, "tokens", width])
    rotated = b.op(
        "RotaryEmbedding",
        name,
        [batched, cos, sin],
        [1, "tokens", width],
        interleaved=1,
        num_heads=heads,
    )
    return b.op("Squeeze", f"{name}/packed", [rotated, b.ints(0)], ["tokens", width])


def _rotary(
    b: GraphBuilder, frequencies: NDArray[np.float32], rotary_scale: float, positions: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return cos and sin of position x inverse frequency, for these tokens only.

    No table over 128K positions is stored. The product is rounded to float32, as in the reference
    implementation; so the angles agree with it at any position.
    """
    half = len(frequencies)
    shape: list[Dim] = ["tokens", half]
    as_float = b.op("Cast", "rotary/positions", [positions], ["tokens"], to=FLOAT)
    column = b.op("Unsqueeze", "rotary/column", [as_float, b.ints(1)], ["tokens", 1])
    row = b.constant(frequencies.reshape(1, half), "rotary/inverse_frequencies")
    angles = b.op("Mul", "rotary/angles", [column, row], shape)
    tables = []
    for function in ("Cos", "Sin"):
        name = f"rotary/{function.lower()}"
        table = b.op(function, name, [angles], shape)
        if rotary_scale != 1.0:
            scale = b.scalar(rotary_scale)
            table = b.op("Mul", f"{name}/scaled", [table, scale], shape)
        tables.append(b.op("Unsqueeze", f"{name}/batched", [table, b.ints(0)], [1, "tokens", half]))
    return tables[0], tables[1]


def _attention_bias(
    b: GraphBuilder,
    positions: ir.Value,
    sequences: ir.Value,
    block_table: ir.Value,
    cache: ir.Value,
) -> ir.Value:
    """Return the additive mask ``[tokens, rows]`` over the bound cache rows.

    Every block of a sequence learns its first logical position from the block table; a row's
    position follows, and a token sees the rows of its own sequence up to its own position.
    """
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
        [starts, sequences],
        ["tokens", "bound_blocks"],
        dtype=INT64,
        axis=0,
    )
    # A row is seen when start + offset <= position, that is start <= position - offset.
    column = b.op("Unsqueeze", "mask/position", [positions, b.ints(1)], ["tokens", 1], dtype=INT64)
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
    )
    flat = b.op("Concat", "mask/bias_shape", [b.ints(-1), cache_rows], [2], dtype=INT64, axis=0)
    return b.op("Reshape", "mask/bias", [bias, flat], ["tokens", "rows"])
