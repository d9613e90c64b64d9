"""Graph layers whose weights a `Scheme` stores: linear, embedding, mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.graph import kernels
from trtcoder.export.graph.builder import CONTRIB, Dim, GraphBuilder
from trtcoder.export.graph.panels import row_inputs
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.convert import declare_matrix
from trtcoder.export.weights.experts import Expert, declare_experts
from trtcoder.export.weights.matrix import Matrix
from trtcoder.export.weights.panels import (
    PanelMatrix,
    declare_panel_experts,
    declare_panels,
    in_panels,
)

# The attributes of both kernels of fused experts; gate and up are interleaved row by row.
_SWIGLU: dict[str, Any] = {
    "activation_type": "swiglu",
    "swiglu_fusion": 1,
    "activation_alpha": 1.0,
    "activation_beta": 0.0,
}


def linear(
    b: GraphBuilder,
    name: str,
    kind: str,
    x: ir.Value,
    source: Matrix,
    scheme: Scheme,
    recipe: Recipe,
    rows: str = "tokens",
    activation: str | None = None,
) -> ir.Value:
    """Multiply ``x`` ``[rows, K]`` with the transpose of ``source`` ``[N, K]``: ``[rows, N]``.

    ``kind`` is the matrix' class, one of `trtcoder.calib.storage.record.CLASSES`; ``activation``
    is the name of the whole activation where ``x`` is only some rows of it.
    """
    out, width = source.rows, source.width
    if not scheme.is_float and width % scheme.block_size:
        b.plan.pad(name, width, scheme.block_size)
    weight, activation = f"{name}/weight", activation or str(x.name)
    if in_panels(scheme, recipe):
        panels = declare_panels(b.plan, weight, kind, activation, source, scheme)
        if b.uses_kernels:
            return kernels.linear(b, name, x, panels, rows)
        return product(b, name, x, panels, recipe, rows)
    weights = _matrix(b, weight, kind, activation, source, scheme)
    if scheme.is_float:
        return _float_product(b, name, x, weights, out, rows)
    level = recipe.accuracy_level
    return _integer_product(b, name, x, weights, out, width, scheme, level, rows)


def product(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    matrix: PanelMatrix,
    recipe: Recipe,
    rows: str = "tokens",
) -> ir.Value:
    """Multiply ``x`` ``[rows, K]`` with a matrix in panels by ONNX Runtime's own operators.

    Of a pair it is both products, ``[rows, 2 N]``.
    """
    out = 2 * matrix.rows if matrix.pair else matrix.rows
    weights, scheme = row_inputs(b, matrix), matrix.scheme
    if scheme.is_float:
        return _float_product(b, name, x, weights, out, rows)
    level = recipe.accuracy_level
    return _integer_product(b, name, x, weights, out, matrix.width, scheme, level, rows)


def _float_product(
    b: GraphBuilder, name: str, x: ir.Value, weights: Sequence[ir.Value], out: int, rows: str
) -> ir.Value:
    """Multiply with float32 that lies row by row."""
    return b.op("Gemm", name, [x, *weights], [rows, out], transB=1)


def _integer_product(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    weights: Sequence[ir.Value],
    out: int,
    width: int,
    scheme: Scheme,
    accuracy_level: int,
    rows: str,
) -> ir.Value:
    """Multiply with integers that lie row by row."""
    return b.op(
        "MatMulNBits",
        name,
        [x, *weights],
        [rows, out],
        domain=CONTRIB,
        N=out,
        K=width,
        bits=scheme.bits,
        block_size=scheme.block_size,
        accuracy_level=accuracy_level,
    )


def embedding(
    b: GraphBuilder, name: str, ids: ir.Value, source: Matrix, scheme: Scheme
) -> ir.Value:
    """Look up rows of ``source`` ``[V, H]``: ``[tokens, H]``."""
    shape: list[Dim] = ["tokens", source.width]
    if scheme.is_float:
        (table,) = _matrix(b, f"{name}/weight", "embedding", "", source, scheme)
        return b.op("Gather", name, [table, ids], shape, axis=0)
    if source.width % scheme.block_size:
        raise BuildError(
            f"{source.label}: width {source.width} does not divide by block {scheme.block_size}; "
            "use a smaller --block-size"
        )
    codes, scales, *zeros = _matrix(b, f"{name}/weight", "embedding", "", source, scheme, flat=True)
    return b.op(
        "GatherBlockQuantized",
        name,
        [codes, ids, scales, *zeros],
        shape,
        domain=CONTRIB,
        bits=scheme.bits,
        block_size=scheme.block_size,
        gather_axis=0,
        quantize_axis=1,
    )


def mixture_of_experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    selection: ir.Value,
    mixing: ir.Value,
    experts: Sequence[Expert],
    top_k: int,
    gate_up: Scheme,
    down: Scheme,
    recipe: Recipe,
) -> ir.Value:
    """Run the ``top_k`` experts of each token and add their outputs: ``[tokens, H]``.

    ``selection`` and ``mixing`` are ``[tokens, E]``: experts are chosen by the first and weighed
    by the second. One fused node; gate and up are interleaved row by row, as its CPU kernel asks.
    ``gate_up`` and ``down`` may differ in bits and zero points.
    """
    hidden, declared = experts[0].gate.width, (b.plan, name, str(x.name), experts, gate_up, down)
    if in_panels(gate_up, recipe):
        fc1, fc2 = (row_inputs(b, stack) for stack in declare_panel_experts(*declared))
    else:
        stacks = declare_experts(*declared)
        fc1, fc2 = ([b.weight(weight) for weight in weights] for weights in stacks)
    if gate_up.is_float:
        return float_experts(b, name, x, selection, fc1[0], fc2[0], hidden, top_k)
    common = {**_SWIGLU, "k": top_k}
    inputs = [x, selection, fc1[0], fc1[1], None, fc2[0], fc2[1], None, None, None, None]
    inputs += [None if gate_up.symmetric else fc1[2], None if down.symmetric else fc2[2]]
    if gate_up.bits != down.bits:
        common["fc2_expert_weight_bits"] = down.bits
    return b.op(
        "QMoE",
        name,
        [*inputs, None, mixing],
        ["tokens", hidden],
        domain=CONTRIB,
        expert_weight_bits=gate_up.bits,
        block_size=gate_up.block_size,
        accuracy_level=recipe.accuracy_level,
        # Set, it would also divide the mixing weights that it is given by their sum.
        normalize_routing_weights=0,
        **common,
    )


def masked_experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    logits: ir.Value,
    experts: Sequence[Expert],
    top_k: int,
    gate_up: Scheme,
    down: Scheme,
) -> ir.Value:
    """Run each token's experts as CUDA's kernel does, by logits alone: ``[tokens, H]``.

    ``logits`` ``[tokens, E]`` are those of `trtcoder.export.graph.masked_routing`, whose factor the
    caller multiplies with. The weights are those that the CPU's kernel takes.
    """
    if gate_up.bits != down.bits or gate_up.is_float:
        raise BuildError(f"{name}: gate and up are {gate_up}, down is {down}; CUDA wants one form")
    hidden = experts[0].gate.width
    stacks = declare_experts(b.plan, name, str(x.name), experts, gate_up, down)
    fc1, fc2 = ([b.weight(weight) for weight in weights] for weights in stacks)
    inputs = [x, logits, fc1[0], fc1[1], None, fc2[0], fc2[1]]
    if not gate_up.symmetric:
        inputs += [None, None, None, None, fc1[2], fc2[2]]
    return b.op(
        "QMoE",
        name,
        inputs,
        ["tokens", hidden],
        domain=CONTRIB,
        k=top_k,
        expert_weight_bits=gate_up.bits,
        block_size=gate_up.block_size,
        normalize_routing_weights=1,
        # They are as they are stored, and the kernel lays them out when the graph is loaded.
        weights_prepacked=0,
        **_SWIGLU,
    )


def float_experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    selection: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    hidden: int,
    top_k: int,
) -> ir.Value:
    """Run experts whose weights are float32, ``[E, 2 I, H]`` and ``[E, H, I]``: ``[tokens, H]``.

    The node has no input for the mixing weights. It takes the softmax over the chosen logits, which
    is the chosen probabilities over their sum: the caller multiplies with that sum.
    """
    return b.op(
        "MoE",
        name,
        [x, selection, gate_up, None, down],
        ["tokens", hidden],
        domain=CONTRIB,
        k=top_k,
        normalize_routing_weights=1,
        **_SWIGLU,
    )


def _matrix(
    b: GraphBuilder,
    name: str,
    kind: str,
    activation: str,
    source: Matrix,
    scheme: Scheme,
    flat: bool = False,
) -> list[ir.Value]:
    """Return what a kernel takes of a matrix: itself, or codes, float32 scales and zero points."""
    declared = declare_matrix(b.plan, name, kind, activation, source, scheme, flat)
    return [b.weight(weight) for weight in declared]
