"""The graph's inputs, and what every layer derives from them once a step.

The batch is packed and ragged: the tokens of all sequences stand in one row. `slots` and
`block_table` say where each sequence's entries are in the cache: our attention reads them so, and
for ONNX Runtime's own operators they become one additive mask that all layers share
(`trtcoder.export.graph.attention_mask`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.paged_inputs import PagedInputs, declare_paged_inputs

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64

# Cache rows a block.
CACHE_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs ``[tokens]``, and the values derived from them.

    Attributes:
        slots: int64, the cache row of each token.
        sequences: int64, the row of ``block_table`` of each token.
        block_table: int64 ``[sequences, blocks]``.
        cos, sin: float32 ``[1, tokens, rope / 2]``.
        cache: any layer's cache, ``[rows, width]``.
        paged: what `PagedAttention` takes, in a graph for CUDA.
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
    paged: PagedInputs | None

    def slot_column(self, b: GraphBuilder) -> ir.Value:
        """Return the slots as ScatterND takes them, ``[tokens, 1]``."""
        return b.once(
            "batch/slots",
            lambda: b.op(
                "Unsqueeze", "batch/slots", [self.slots, b.ints(1)], ["tokens", 1], dtype=INT64
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
        paged=declare_paged_inputs(b, slots, block_table) if b.attends_by_pages else None,
    )


class Angles(Protocol):
    """Cos and sin of the tokens' rotary angles, float32 ``[1, tokens, rope / 2]``."""

    @property
    def cos(self) -> ir.Value:
        """The cosines."""

    @property
    def sin(self) -> ir.Value:
        """The sines."""


def rotate(
    b: GraphBuilder, name: str, x: ir.Value, heads: int, rope: int, inputs: Angles
) -> ir.Value:
    """Rotate interleaved pairs of ``x`` ``[tokens, heads * rope]`` by the tokens' positions."""
    width = heads * rope
    batched = b.op(
        "Unsqueeze", f"{name}/batched", [x, b.ints(0)], [1, "tokens", width], dtype=FLOAT
    )
    rotated = b.op(
        "RotaryEmbedding",
        name,
        [batched, inputs.cos, inputs.sin],
        [1, "tokens", width],
        interleaved=1,
        num_heads=heads,
        dtype=FLOAT,
    )
    return b.op("Squeeze", f"{name}/packed", [rotated, b.ints(0)], ["tokens", width], dtype=FLOAT)


def _rotary(
    b: GraphBuilder, frequencies: NDArray[np.float32], rotary_scale: float, positions: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return cos and sin of position x inverse frequency, for these tokens only.

    No table over 128K positions is stored. The product is rounded to float32, as in the reference
    implementation; so the angles agree with it at any position.
    """
    half = len(frequencies)
    shape: list[Dim] = ["tokens", half]
    as_float = b.op("Cast", "rotary/positions", [positions], ["tokens"], to=FLOAT, dtype=FLOAT)
    column = b.op("Unsqueeze", "rotary/column", [as_float, b.ints(1)], ["tokens", 1], dtype=FLOAT)
    row = b.constant(frequencies.reshape(1, half), "rotary/inverse_frequencies")
    angles = b.op("Mul", "rotary/angles", [column, row], shape, dtype=FLOAT)
    tables = []
    for function in ("Cos", "Sin"):
        name = f"rotary/{function.lower()}"
        table = b.op(function, name, [angles], shape, dtype=FLOAT)
        if rotary_scale != 1.0:
            scale = b.scalar(rotary_scale)
            table = b.op("Mul", f"{name}/scaled", [table, scale], shape, dtype=FLOAT)
        tables.append(
            b.op(
                "Unsqueeze", f"{name}/batched", [table, b.ints(0)], [1, "tokens", half], dtype=FLOAT
            )
        )
    return tables[0], tables[1]
