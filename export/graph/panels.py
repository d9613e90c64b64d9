"""Weights in panels as the nodes of either graph take them."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from trtcoder.calib.storage.panels import PANEL
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.weights.panels import PanelMatrix
from trtcoder.export.weights.plan import DType, Weight


def panel_inputs(b: GraphBuilder, matrix: PanelMatrix) -> list[ir.Value | None]:
    """Return codes, scales and zero points as our operators take them, ``[panels, a panel]``.

    The panels are those of all matrices; zero points are None where there are none, and beside
    float32 values scales are, too.
    """
    leading = len(matrix.leading)
    found: list[ir.Value | None] = [
        b.weight(
            weight,
            shape=[math.prod(weight.shape[:leading]), math.prod(weight.shape[leading:])],
            narrow=(DType.FLOAT16,),
        )
        for weight in matrix.weights
    ]
    return [*found, *[None] * (3 - len(found))]


def row_inputs(b: GraphBuilder, matrix: PanelMatrix) -> list[ir.Value]:
    """Return codes, scales and zero points as ONNX Runtime's own operators take them, row by row.

    Of float32 it is the values alone.

    Of one matrix the shapes are those of `trtcoder.export.weights.convert.declare_rows`; a pair is
    stacked. Of several they begin with ``count``, codes are flat, and the rows of a pair alternate.
    Constant nodes bring the panels into rows; ONNX Runtime runs them when it loads the graph.
    """
    scheme, blocks = matrix.scheme, matrix.scheme.blocks(matrix.width)
    if scheme.is_float:
        (values,) = matrix.weights
        return [_rows(b, matrix, values, [matrix.width])]
    blob = scheme.block_size * scheme.bits // 8
    packed = -(-blocks * scheme.bits // 8)
    codes = [blocks * blob] if matrix.count is not None else [blocks, blob]
    tails = (codes, [blocks], [packed])
    return [
        _rows(b, matrix, weight, tail) for weight, tail in zip(matrix.weights, tails, strict=False)
    ]


def _rows(b: GraphBuilder, matrix: PanelMatrix, weight: Weight, tail: list[int]) -> ir.Value:
    """Return a weight row by row, each row of the shape ``tail``."""
    name, panels = f"{weight.name}/rows", -(-matrix.rows // PANEL)
    order = _by_row(matrix, weight)
    value = b.weight(weight, narrow=(DType.FLOAT16,))
    dtype = value.dtype or ir.DataType.UINT8

    def add(op: str, role: str, inputs: list[ir.Value], shape: list[int], **more: Any) -> ir.Value:
        return b.op(op, f"{name}/{role}", inputs, shape, dtype=dtype, **more)

    value = add("Transpose", "turned", [value], [weight.shape[axis] for axis in order], perm=order)
    alternate = 2 if matrix.pair and matrix.count is not None else 1
    groups = matrix.count or (2 if matrix.pair else 1)
    whole, kept = alternate * panels * PANEL, alternate * matrix.rows
    if kept != whole:
        parted = [groups, whole, *tail]
        value = add("Reshape", "filled", [value, b.ints(*parted)], parted)
        bounds = [b.ints(0), b.ints(kept), b.ints(1)]
        value = add("Slice", "kept", [value, *bounds], [groups, kept, *tail])
    shape = [groups, kept, *tail] if matrix.count is not None else [groups * kept, *tail]
    value = add("Reshape", "shaped", [value, b.ints(*shape)], shape)
    if weight.dtype != DType.FLOAT16:
        return value
    return b.cast(value, f"{name}/float32", shape, ir.DataType.FLOAT)


def _by_row(matrix: PanelMatrix, weight: Weight) -> list[int]:
    """Return the order of a weight's axes in which its rows come one after another."""
    leading = len(matrix.leading)
    axes = list(range(leading, len(weight.shape)))
    # The sixteen rows are the last axis, but for the bytes of codes behind them.
    row = axes[-1] if len(axes) == 2 else axes[-2]
    columns = [axis for axis in axes if axis != row]
    if len(columns) == 3:  # of 8 bits: the even columns of eight lie before the odd ones
        columns = [columns[0], columns[2], columns[1]]
    if not matrix.pair:
        return [*range(leading), row, *columns]
    panel, half = leading - 2, leading - 1
    if matrix.count is None:
        return [half, panel, row, *columns]
    return [0, panel, row, half, *columns]
