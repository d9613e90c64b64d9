"""Graph layers whose weights are float8: linear and mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.storage import Storage
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import CONTRIB, Dim, GraphBuilder
from trtcoder.export.graph.float8.activations import round_activations, round_with_scale
from trtcoder.export.graph.float8.weights import restore, scale_rows
from trtcoder.export.graph.layers import float_experts
from trtcoder.export.weights.experts import Expert
from trtcoder.export.weights.float8 import Float8Experts, declare_experts, declare_matrix
from trtcoder.export.weights.matrix import Matrix

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def linear(
    b: GraphBuilder,
    name: str,
    kind: str,
    x: ir.Value,
    source: Matrix,
    scheme: Float8,
    rows: str = "tokens",
    activation: str | None = None,
) -> ir.Value:
    """Multiply ``x`` ``[rows, K]`` with the transpose of ``source`` ``[N, K]``: ``[rows, N]``.

    The arguments are those of `trtcoder.export.graph.layers.linear`.
    """
    activation = activation or str(x.name)
    rounded = round_activations(b, x, rows, source.width, activation, scheme)
    shape = [source.rows, source.width]
    declared = declare_matrix(b.plan, f"{name}/weight", kind, activation, source, scheme)
    codes, scales = (b.weight(weight) for weight in declared)
    if scheme.per_block:
        scales = scale_rows(b, f"{name}/weight/scales", scales, [], *shape)
    weight = restore(b, f"{name}/weight", codes, scales, shape, scheme)
    return b.op("Gemm", name, [rounded, weight], [rows, source.rows], transB=1)


def mixture_of_experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    selection: ir.Value,
    mixing: ir.Value,
    experts: Sequence[Expert],
    top_k: int,
    gate_up: Storage,
    down: Storage,
) -> ir.Value:
    """Run the ``top_k`` experts of each token and add their outputs: ``[tokens, H]``.

    The arguments are those of `trtcoder.export.graph.layers.mixture_of_experts`. With float32
    activations it is one fused node, whose mixing weights are of the caller as there. Otherwise
    what goes into down projections must be rounded, so that all experts run on all tokens, and
    those that were not chosen count 0.
    """
    if down != gate_up or not isinstance(down, Float8):
        raise BuildError(
            f"{name}: gate and up are {gate_up}, down is {down}; fp8 experts are fp8 altogether"
        )
    count, hidden, inner = len(experts), experts[0].gate.width, experts[0].gate.rows
    stacks = declare_experts(b.plan, name, str(x.name), experts, down)
    fc1, fc2 = _restore_stacks(b, name, stacks, inner, down)
    down_scale = None if stacks.product_scales is None else b.weight(stacks.product_scales)
    if down.activations == "float":
        return float_experts(b, name, x, selection, fc1, fc2, hidden, top_k)
    rounded = round_activations(b, x, "tokens", hidden, str(x.name), down)
    product = _gated_product(b, name, rounded, fc1, count, inner)
    shape: list[Dim] = [count, "tokens", inner]
    product_name = f"{name}/product"
    if down_scale is not None:
        product = round_with_scale(b, f"{product_name}/fp8_static", product, down_scale, shape)
    else:
        rows = b.op(
            "Reshape", f"{product_name}/rows", [product, b.ints(-1, inner)], ["pairs", inner]
        )
        rows = round_activations(b, rows, "pairs", inner, product_name, down)
        product = b.op(
            "Reshape", f"{product_name}/rounded", [rows, b.ints(count, -1, inner)], shape
        )
    outputs = b.op(
        "FusedMatMul", f"{name}/outputs", [product, fc2], [count, "tokens", hidden],
        domain=CONTRIB, transB=1,
    )  # fmt: skip
    weights = _mixing_of_chosen(b, name, selection, mixing, top_k, count)
    weighed = b.op("Mul", f"{name}/weighed", [outputs, weights], [count, "tokens", hidden])
    return b.op("ReduceSum", name, [weighed, b.ints(0)], ["tokens", hidden], keepdims=0)


def _restore_stacks(
    b: GraphBuilder, name: str, stacks: Float8Experts, inner: int, scheme: Float8
) -> tuple[ir.Value, ir.Value]:
    """Return all experts' weights in float32: ``[E, 2 I, H]``, interleaved, and ``[E, H, I]``."""
    fc1_name, fc2_name = f"{name}/gate_up", f"{name}/down"
    fc1_shape, fc2_shape = stacks.gate_up.shape, stacks.down.shape
    count, hidden = fc2_shape[:2]
    fc1, fc2, scales1, scales2 = (
        b.weight(weight)
        for weight in (stacks.gate_up, stacks.down, stacks.gate_up_scales, stacks.down_scales)
    )
    if not scheme.per_block:
        return (
            restore(b, fc1_name, fc1, scales1, fc1_shape, scheme),
            restore(b, fc2_name, fc2, scales2, fc2_shape, scheme),
        )
    columns = stacks.gate_up_scales.shape[-1]
    rows1 = scale_rows(b, f"{fc1_name}/scales", scales1, [count, 2], inner, hidden)
    rows1 = b.op(
        "Transpose", f"{fc1_name}/scales/pairs", [rows1], [count, inner, 2, columns],
        perm=[0, 2, 1, 3],
    )  # fmt: skip
    interleaved = [count, 2 * inner, columns]
    rows1 = b.op(
        "Reshape", f"{fc1_name}/scales/interleaved", [rows1, b.ints(*interleaved)], interleaved
    )
    rows2 = scale_rows(b, f"{fc2_name}/scales", scales2, [count], hidden, inner)
    return (
        restore(b, fc1_name, fc1, rows1, fc1_shape, scheme),
        restore(b, fc2_name, fc2, rows2, fc2_shape, scheme),
    )


def _gated_product(
    b: GraphBuilder, name: str, x: ir.Value, fc1: ir.Value, count: int, inner: int
) -> ir.Value:
    """Return what all experts' down projections multiply: ``[E, tokens, I]``."""
    fused = b.op(
        "FusedMatMul", f"{name}/gate_up_proj", [x, fc1], [count, "tokens", 2 * inner],
        domain=CONTRIB, transB=1,
    )  # fmt: skip
    shape: list[Dim] = [count, "tokens", inner]
    end, axis, step = b.ints(2 * inner), b.ints(2), b.ints(2)
    gate = b.op("Slice", f"{name}/gate", [fused, b.ints(0), end, axis, step], shape)
    up = b.op("Slice", f"{name}/up", [fused, b.ints(1), end, axis, step], shape)
    gated = b.op("QuickGelu", f"{name}/silu", [gate], shape, domain=CONTRIB, alpha=1.0)
    return b.op("Mul", f"{name}/product", [gated, up], shape)


def _mixing_of_chosen(
    b: GraphBuilder, name: str, selection: ir.Value, mixing: ir.Value, top_k: int, count: int
) -> ir.Value:
    """Return the mixing weights, 0 for experts that were not chosen: ``[E, tokens, 1]``."""
    chosen: list[Dim] = ["tokens", top_k]
    _, indices = b.multi_op(
        "TopK",
        f"{name}/chosen",
        [selection, b.ints(top_k)],
        [(f"{name}/chosen/logits", FLOAT, chosen), (f"{name}/chosen/experts", INT64, chosen)],
        axis=-1,
    )
    weights = b.op("GatherElements", f"{name}/chosen/mixing", [mixing, indices], chosen, axis=1)
    shape: list[Dim] = ["tokens", count]
    size = b.op("Shape", f"{name}/mixing/shape", [mixing], [2], dtype=INT64)
    zeros = b.op("ConstantOfShape", f"{name}/mixing/zeros", [size], shape)
    spread = b.op(
        "ScatterElements", f"{name}/mixing/spread", [zeros, indices, weights], shape, axis=1
    )
    turned = b.op("Transpose", f"{name}/mixing/by_expert", [spread], [count, "tokens"], perm=[1, 0])
    return b.op("Unsqueeze", f"{name}/mixing", [turned, b.ints(2)], [count, "tokens", 1])
