"""Routed and shared experts as plans have them: one fused node for all routed experts.

The node is `com.microsoft::QMoE` as TensorRT-RTX' plugin takes it: int4 in blocks of 128, gate and
up alternating row by row, biases present, three dimensions of tokens, and routing by logits alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import CONTRIB, Dim
from trtcoder.export.graph.deepseek_v2 import expert, router_weight
from trtcoder.export.graph.masked_routing import route_masked
from trtcoder.export.graph.slots.model import FLOAT, SlotModel
from trtcoder.export.weights.experts import declare_experts, expert_product
from trtcoder.export.weights.plan import Weight
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def experts(
    model: SlotModel, config: DeepseekV2Config, layer: int, wide: ir.Value, x: ir.Value
) -> ir.Value:
    """Run the experts of each token and add their outputs: float32 ``[tokens, H]``.

    ``wide`` is the normed stream in float32, for the router; ``x`` the same in float16.
    """
    b, hidden = model.b, config.hidden_size
    name, prefix = f"layers.{layer}/moe", f"model.layers.{layer}.mlp"
    shape: list[Dim] = ["tokens", hidden]
    router = router_weight(model, name, prefix, x)
    logits = b.op(
        "Gemm",
        f"{name}/router",
        [wide, router],
        ["tokens", config.n_routed_experts],
        dtype=FLOAT,
        transB=1,
    )
    routing = route_masked(b, name, logits, config)
    routed = _routed(model, config, layer, x, routing.logits)
    output = b.cast(routed, f"{name}/experts/wide", shape, FLOAT)
    if routing.factor is not None:
        output = b.op("Mul", f"{name}/scaled", [output, routing.factor], shape, dtype=FLOAT)
    if not config.shared_intermediate_size:
        return output
    shared = model.swiglu(f"{name}/shared_experts", f"{prefix}.shared_experts", x)
    shared = b.cast(shared, f"{name}/shared_experts/wide", shape, FLOAT)
    return b.op("Add", f"{name}/output", [output, shared], shape, dtype=FLOAT)


def _routed(
    model: SlotModel, config: DeepseekV2Config, layer: int, x: ir.Value, logits: ir.Value
) -> ir.Value:
    b, hidden, recipe = model.b, config.hidden_size, model.recipe
    name, prefix = f"layers.{layer}/moe/experts", f"model.layers.{layer}.mlp.experts"
    gate_up, down = (recipe.scheme(kind, layer) for kind in ("experts_gate_up", "experts_down"))
    if not (isinstance(gate_up, Scheme) and isinstance(down, Scheme)) or gate_up.bits != 4:
        raise BuildError(f"{name}: the fused node takes int4; use --weights int4")
    count = config.n_routed_experts
    members = [
        expert(model, f"{prefix}.{index}", expert_product(name, index)) for index in range(count)
    ]
    fc1, fc2 = declare_experts(b.plan, name, str(x.name), members, gate_up, down)
    batched = b.op("Unsqueeze", f"{name}/batched", [x, b.ints(0)], [1, "tokens", hidden])
    made = b.op(
        "QMoE",
        name,
        [batched, logits, *_stack(model, fc1), *_stack(model, fc2)],
        [1, "tokens", hidden],
        domain=CONTRIB,
        k=config.num_experts_per_tok,
        activation_type="swiglu",
        swiglu_fusion=1,
        activation_alpha=1.0,
        activation_beta=0.0,
        expert_weight_bits=gate_up.bits,
        block_size=gate_up.block_size,
        normalize_routing_weights=1,
        use_sparse_mixer=0,
    )
    shape: list[Dim] = ["tokens", hidden]
    return b.op("Squeeze", f"{name}/packed", [made, b.ints(0)], shape)


def _stack(model: SlotModel, weights: list[Weight]) -> list[ir.Value]:
    """Return codes, scales and biases of a stack, the biases zero."""
    b, (codes, scales) = model.b, weights
    zeros = np.zeros(codes.shape[:2], np.float16)
    return [
        b.weight(codes),
        b.weight(scales),
        b.constant(zeros, f"zeros/{codes.shape[0]}x{codes.shape[1]}"),
    ]
