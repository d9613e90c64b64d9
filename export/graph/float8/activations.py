"""Activations as float8 holds them, and what float8 codes stand for.

ONNX Runtime's CPU kernels multiply in float32. Before a matmul the graph rounds activations to
float8 as a GPU does, and multiplies what they stand for: the GPU's matmul, but for the order of
its sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from trtcoder.calib.storage.float8 import LARGEST, SMALLEST_SCALE, VALUES, Float8
from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.weights.float8 import declare_activation_scale

FLOAT, FLOAT8, INT32 = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN, ir.DataType.INT32


def round_activations(
    b: GraphBuilder, x: ir.Value, rows: str, width: int, activation: str, scheme: Float8
) -> ir.Value:
    """Return ``x`` ``[rows, width]`` as float8 holds it, in its type; made once for all who ask."""
    if scheme.activations == "float":
        return x
    if scheme.activations == "dynamic":
        size = scheme.activation_block(width)
        name = f"{x.name}/fp8_{size}"
        return b.once(name, lambda: _round_dynamically(b, name, x, rows, width, size))
    name = f"{x.name}/fp8_static"
    return b.once(name, lambda: _round_statically(b, name, x, rows, width, activation, scheme))


def round_with_scale(
    b: GraphBuilder, name: str, x: ir.Value, scale: ir.Value, shape: Sequence[Dim]
) -> ir.Value:
    """Round ``x`` with one scale, ``[1]``, or with one for each entry of its first axis."""
    codes = b.op(
        "QuantizeLinear", f"{name}/codes", [x, scale], shape, dtype=FLOAT8,
        axis=0, output_dtype=int(FLOAT8),
    )  # fmt: skip
    return b.op("DequantizeLinear", name, [codes, scale], shape, axis=0)


def round_groups(
    b: GraphBuilder, name: str, grouped: ir.Value, shape: Sequence[Dim]
) -> tuple[ir.Value, ir.Value]:
    """Round groups, the last axis of ``grouped``, with scales of their own.

    Returns the float8 values, as float32 and not yet multiplied with their scales, and the scales.
    """
    magnitude = b.op("Abs", f"{name}/magnitude", [grouped], shape)
    single = [*shape[:-1], 1]
    axis = b.ints(len(shape) - 1)
    largest = b.op("ReduceMax", f"{name}/largest", [magnitude, axis], single, keepdims=1)
    ratio = b.op("Div", f"{name}/ratio", [largest, b.scalar(LARGEST)], single)
    scale = b.op("Max", f"{name}/scale", [ratio, b.scalar(SMALLEST_SCALE)], single)
    levels = b.op("Div", f"{name}/levels", [grouped, scale], shape)
    codes = b.op("Cast", f"{name}/codes", [levels], shape, dtype=FLOAT8, to=int(FLOAT8))
    return b.op("Cast", f"{name}/values", [codes], shape, to=int(FLOAT)), scale


def decode(b: GraphBuilder, name: str, codes: ir.Value, shape: Sequence[Dim]) -> ir.Value:
    """Return what the bits of float8 values, as uint8, stand for: float32, by a table of all 256.

    Gather and ScatterND take no float8, so what is looked up or written in place is uint8.
    """
    indices = b.op("Cast", f"{name}/indices", [codes], shape, dtype=INT32, to=int(INT32))
    return b.op("Gather", name, [b.constant(VALUES, "fp8/values"), indices], shape, axis=0)


def multiply_groups(
    b: GraphBuilder, name: str, x: ir.Value, scale: ir.Value, rows: str, groups: int, size: int
) -> ir.Value:
    """Multiply ``x`` ``[rows, groups * size]`` with ``scale`` ``[rows, groups]``."""
    shape: list[Dim] = [rows, groups, size]
    grouped = b.op("Reshape", f"{name}/grouped", [x, b.ints(-1, groups, size)], shape)
    column = b.op("Unsqueeze", f"{name}/column", [scale, b.ints(2)], [rows, groups, 1])
    scaled = b.op("Mul", f"{name}/scaled", [grouped, column], shape)
    width = groups * size
    return b.op("Reshape", name, [scaled, b.ints(-1, width)], [rows, width])


def _round_statically(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    rows: str,
    width: int,
    activation: str,
    scheme: Float8,
) -> ir.Value:
    scale = b.weight(declare_activation_scale(b.plan, f"{name}/scale", activation, scheme))
    return round_with_scale(b, name, x, scale, [rows, width])


def _round_dynamically(
    b: GraphBuilder, name: str, x: ir.Value, rows: str, width: int, size: int
) -> ir.Value:
    groups = -(-width // size)
    whole = groups * size
    padding = whole - width
    if padding:
        x = b.op("Pad", f"{name}/padded", [x, b.ints(0, 0, 0, padding)], [rows, whole])
    shape: list[Dim] = [rows, groups, size]
    grouped = b.op("Reshape", f"{name}/groups", [x, b.ints(-1, groups, size)], shape)
    values, scale = round_groups(b, name, grouped, shape)
    scaled = b.op("Mul", f"{name}/scaled", [values, scale], shape)
    merged = f"{name}/merged" if padding else name
    rounded = b.op("Reshape", merged, [scaled, b.ints(-1, whole)], [rows, whole])
    if not padding:
        return rounded
    return b.op("Slice", name, [rounded, b.ints(0), b.ints(width), b.ints(1)], [rows, width])
