"""The inputs of a graph over slots, and what every layer derives from them.

Each sequence has a slot: consecutive rows of the cache, one for each token. All slots that run
together have equally many new tokens: one each when they decode, or several of one slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.export.graph.builder import Dim, GraphBuilder

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


@dataclass(frozen=True, slots=True)
class SlotInputs:
    """What the layers of one plan take beside their caches; tokens are slots x length.

    Attributes:
        hidden: float32 ``[tokens, H]``, the residual stream.
        places: int64 ``[slots, length]``, the row of its slot that each token is written to,
            ascending by one within a slot.
        window: int64 ``[window]``, 0, 1, 2 …: the rows that attention reads, of all slots alike.
        cos, sin: float32 ``[1, tokens, rope / 2]``: the caller computes them, because a GPU's fast
            cosine is wrong for large angles.
    """

    hidden: ir.Value
    places: ir.Value
    window: ir.Value
    cos: ir.Value
    sin: ir.Value

    def firsts(self, b: GraphBuilder) -> ir.Value:
        """Return int64 ``[slots]``: the cache row that each slot's first token is written to."""
        return b.once("batch/firsts", lambda: _firsts(b, self.places))

    def by_slot(self, b: GraphBuilder, heads: int, width: int) -> ir.Value:
        """Return the shape ``[slots, 1, length * heads, width]``.

        It is computed and not left to -1, so that compilers know its bound.
        """
        name = f"batch/by_slot_{heads}x{width}"
        return b.once(name, lambda: _by_slot(b, name, self.places, heads, width))

    def by_token(self, b: GraphBuilder, heads: int) -> ir.Value:
        """Return the shape ``[slots, length, heads, window]``."""
        name = f"batch/by_token_{heads}"
        return b.once(
            name,
            lambda: b.op(
                "Concat",
                name,
                [_sizes(b, self.places), b.ints(heads), self.extent(b)],
                [4],
                dtype=INT64,
                axis=0,
            ),
        )

    def extent(self, b: GraphBuilder) -> ir.Value:
        """Return int64 ``[1]``: how many rows attention reads."""
        return b.once(
            "batch/extent",
            lambda: b.op("Shape", "batch/extent", [self.window], [1], dtype=INT64),
        )

    def seen(self, b: GraphBuilder) -> ir.Value:
        """Return bool ``[slots, length, 1, window]``: whether a token sees a row of its slot."""
        return b.once("batch/seen", lambda: _seen(b, self.places, self.window))


def declare_slot_inputs(b: GraphBuilder, hidden: int, rope: int) -> SlotInputs:
    """Declare the inputs of a plan of layers."""
    return SlotInputs(
        hidden=b.input("hidden", FLOAT, ["tokens", hidden]),
        places=b.input("places", INT64, ["slots", "length"]),
        window=b.input("window", INT64, ["window"]),
        cos=b.input("cos", FLOAT, [1, "tokens", rope // 2]),
        sin=b.input("sin", FLOAT, [1, "tokens", rope // 2]),
    )


def _firsts(b: GraphBuilder, places: ir.Value) -> ir.Value:
    column = b.op(
        "Slice",
        "batch/first_column",
        [places, b.ints(0), b.ints(1), b.ints(1)],
        ["slots", 1],
        dtype=INT64,
    )
    return b.op("Squeeze", "batch/firsts", [column, b.ints(1)], ["slots"], dtype=INT64)


def _sizes(b: GraphBuilder, places: ir.Value) -> ir.Value:
    """Return int64 ``[2]``: slots and length."""
    return b.once("batch/sizes", lambda: b.op("Shape", "batch/sizes", [places], [2], dtype=INT64))


def _by_slot(b: GraphBuilder, name: str, places: ir.Value, heads: int, width: int) -> ir.Value:
    slots, length = b.multi_op(
        "Split",
        f"{name}/split",
        [_sizes(b, places), b.ints(1, 1)],
        [(f"{name}/slots", INT64, [1]), (f"{name}/length", INT64, [1])],
        axis=0,
    )
    queries = b.op("Mul", f"{name}/queries", [length, b.ints(heads)], [1], dtype=INT64)
    shape = [slots, b.ints(1), queries, b.ints(width)]
    return b.op("Concat", name, shape, [4], dtype=INT64, axis=0)


def _seen(b: GraphBuilder, places: ir.Value, window: ir.Value) -> ir.Value:
    shape: list[Dim] = ["slots", "length", 1, 1]
    column = b.op("Unsqueeze", "batch/place_column", [places, b.ints(2, 3)], shape, dtype=INT64)
    shape = ["slots", "length", 1, "window"]
    return b.op("LessOrEqual", "batch/seen", [window, column], shape, dtype=BOOL)
