"""The DeepSeek-V2 architecture as a graph over a packed, ragged batch.

Sources: DeepSeek-V2 (arXiv 2405.04434), sections 2.1 (multi-head latent attention) and 2.2
(DeepSeekMoE); transformers 5.23.0, models/deepseek_v2/modeling_deepseek_v2.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.storage import GraphStorage
from trtcoder.errors import BuildError
from trtcoder.export.graph import kernels
from trtcoder.export.graph.attention import latent_attention
from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.cuda_cache import declare_cuda_cache
from trtcoder.export.graph.float8 import layers as float8_layers
from trtcoder.export.graph.inputs import declare_inputs
from trtcoder.export.graph.kernels import PanelMlp
from trtcoder.export.graph.latent_cache import Cache, declare_cache
from trtcoder.export.graph.layers import masked_experts, mixture_of_experts
from trtcoder.export.graph.masked_routing import route_masked, scale_routed
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.graph.router import route
from trtcoder.export.weights.experts import Expert, expert_product
from trtcoder.export.weights.matrix import Piece
from trtcoder.export.weights.panels import declare_panel_experts, in_panels
from trtcoder.export.weights.plan import DType
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT = ir.DataType.FLOAT


def declare_deepseek_v2(model: ModelBuilder) -> tuple[CacheInfo, ...]:
    """Declare the whole graph, and return its caches; no weight is read yet."""
    b, config = model.b, DeepseekV2Config.of(model.checkpoint.config)
    layers, hidden, epsilon = config.num_hidden_layers, config.hidden_size, config.rms_norm_eps
    caches = [_cache(model, config, layer) for layer in range(layers)]
    inputs = declare_inputs(b, config.inverse_frequencies(), config.rotary_scale, caches[0].entries)
    table = "model.embed_tokens.weight"
    residual = model.embedding("embed_tokens", inputs.input_ids, table)
    branch: ir.Value | None = None
    for layer in range(layers):
        name = f"layers.{layer}"
        model = model.in_layer(layer)
        normed, residual = model.skip_norm(
            f"{name}/input_norm",
            f"model.{name}.input_layernorm.weight",
            residual,
            branch,
            f"layers.{layer - 1}/output",
            hidden,
            epsilon,
        )
        attention = latent_attention(model, config, layer, normed, inputs, caches[layer])
        normed, residual = model.skip_norm(
            f"{name}/post_attention_norm",
            f"model.{name}.post_attention_layernorm.weight",
            residual,
            attention,
            f"{name}/attention/residual",
            hidden,
            epsilon,
        )
        branch = (
            _moe(model, config, layer, normed)
            if config.is_moe_layer(layer)
            else model.swiglu(f"{name}/mlp", f"model.{name}.mlp", normed)
        )
    model = model.in_layer(None)
    last = f"layers.{layers - 1}/output"
    normed, _ = model.skip_norm(
        "final_norm", "model.norm.weight", residual, branch, last, hidden, epsilon
    )
    model.head(
        normed, inputs.sample_rows, table if config.tie_word_embeddings else "lm_head.weight"
    )
    for cache in caches:
        cache.expose(b)
    return tuple(info for cache in caches for info in cache.describe())


def _cache(model: ModelBuilder, config: DeepseekV2Config, layer: int) -> Cache:
    if model.b.cuda is not None:
        return declare_cuda_cache(model, config, layer, model.recipe.cache)
    return declare_cache(model.b, layer, config, model.recipe.cache)


def _moe(model: ModelBuilder, config: DeepseekV2Config, layer: int, x: ir.Value) -> ir.Value:
    b, recipe = model.b, model.recipe
    name, prefix = f"layers.{layer}/moe", f"model.layers.{layer}.mlp"
    shared_name, shared_prefix = f"{name}/shared_experts", f"{prefix}.shared_experts"
    has_shared = bool(config.shared_intermediate_size)
    gate_up, down = (
        recipe.graph_scheme(kind, layer) for kind in ("experts_gate_up", "experts_down")
    )
    experts = [
        expert(model, f"{prefix}.experts.{index}", expert_product(f"{name}/experts", index))
        for index in range(config.n_routed_experts)
    ]
    shape: list[Dim] = ["tokens", config.hidden_size]
    if b.uses_kernels and in_panels(gate_up, recipe) and in_panels(down, recipe):
        stacks = declare_panel_experts(
            b.plan, f"{name}/experts", str(x.name), experts, gate_up, down
        )
        panels = model.panel_mlp(shared_name, shared_prefix, x) if has_shared else None
        router = router_weight(model, name, prefix, x, narrow=(DType.BFLOAT16,))
        routed = kernels.experts(
            b, f"{name}/experts", x, router, PanelMlp(*stacks), panels, config, f"{name}/router"
        )
        if panels is not None or not has_shared:
            return routed
    else:
        router = router_weight(model, name, prefix, x)
        run = _stock_experts if b.cuda is None else _masked_experts
        routed = run(model, config, _Routed(name, x, router, experts, gate_up, down))
    if not has_shared:
        return routed
    shared = model.swiglu(shared_name, shared_prefix, x)
    return b.op("Add", f"{name}/output", [routed, shared], shape)


@dataclass(frozen=True, slots=True)
class _Routed:
    """The routed experts of a layer.

    Attributes:
        name: the mixture's, such as ``layers.3/moe``.
        x: the activations that they and the router multiply, ``[tokens, H]``.
        router: the router's weight, float32 ``[E, H]``.
        experts: their matrices.
        gate_up, down: how these are stored.
    """

    name: str
    x: ir.Value
    router: ir.Value
    experts: Sequence[Expert]
    gate_up: GraphStorage
    down: GraphStorage


def _stock_experts(model: ModelBuilder, config: DeepseekV2Config, routed: _Routed) -> ir.Value:
    """Route and run the routed experts by ONNX Runtime's own operators."""
    b, name, gate_up, down = model.b, routed.name, routed.gate_up, routed.down
    logits = _router_logits(b, config, routed)
    with_total = gate_up.activations == "float" if isinstance(gate_up, Float8) else gate_up.is_float
    routing = route(b, name, logits, config, with_total=with_total)
    common = (
        b,
        f"{name}/experts",
        routed.x,
        routing.selection,
        routing.mixing,
        routed.experts,
        config.num_experts_per_tok,
    )
    if isinstance(gate_up, Float8) or isinstance(down, Float8):
        made = float8_layers.mixture_of_experts(*common, gate_up, down)
    else:
        made = mixture_of_experts(*common, gate_up, down, model.recipe)
    if routing.total is None:
        return made
    shape: list[Dim] = ["tokens", config.hidden_size]
    return b.op("Mul", f"{name}/scaled", [made, routing.total], shape)


def _masked_experts(model: ModelBuilder, config: DeepseekV2Config, routed: _Routed) -> ir.Value:
    """Route and run the routed experts as CUDA's operator does."""
    b, name, gate_up, down = model.b, routed.name, routed.gate_up, routed.down
    if isinstance(gate_up, Float8) or isinstance(down, Float8):
        raise BuildError(f"{name}: CUDA's fused experts take integers, not {gate_up}")
    routing = route_masked(b, name, _router_logits(b, config, routed), config)
    made = masked_experts(
        b,
        f"{name}/experts",
        routed.x,
        routing.logits,
        routed.experts,
        config.num_experts_per_tok,
        gate_up,
        down,
    )
    return scale_routed(b, name, made, routing, config.hidden_size)


def _router_logits(b: GraphBuilder, config: DeepseekV2Config, routed: _Routed) -> ir.Value:
    """Return the router's logits, float32 ``[tokens, E]``."""
    name = f"{routed.name}/router"
    x = b.cast(routed.x, f"{name}/input", ["tokens", config.hidden_size], FLOAT)
    shape: list[Dim] = ["tokens", config.n_routed_experts]
    return b.op("Gemm", name, [x, routed.router], shape, dtype=FLOAT, transB=1)


def expert(model: ModelBuilder, prefix: str, product_name: str) -> Expert:
    """Return the matrices of the expert ``prefix``; its product is called ``product_name``."""
    return Expert(
        gate=model.matrix(f"{prefix}.gate_proj.weight"),
        up=model.matrix(Piece(f"{prefix}.up_proj.weight", makes=product_name)),
        down=model.matrix(f"{prefix}.down_proj.weight"),
    )


def router_weight(
    model: ModelBuilder, name: str, prefix: str, x: ir.Value, narrow: Collection[DType] = ()
) -> ir.Value:
    """Return the router's weight ``[E, H]``; ``x`` is the activation that it multiplies."""
    tensor = f"{prefix}.gate.weight"

    def read() -> NDArray[np.float32]:
        values = model.checkpoint.read(tensor)
        scale = model.b.plan.quantizer.input_scale(str(x.name))
        return values if scale is None else values * scale

    shape = model.checkpoint.shape(tensor)
    return model.parameter(
        f"{name}/router/weight", "router", shape, tensor, read, narrow, as_type=FLOAT
    )
