"""The DeepSeek-V2 architecture as a graph over a packed, ragged batch.

Sources: DeepSeek-V2 (arXiv 2405.04434), sections 2.1 (multi-head latent attention) and 2.2
(DeepSeekMoE); transformers 5.23.0, models/deepseek_v2/modeling_deepseek_v2.py.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.float8 import Float8
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.attention import latent_attention
from trtcoder.export.graph.batch import declare_batch
from trtcoder.export.graph.builder import CONTRIB, Dim, GraphBuilder
from trtcoder.export.graph.checkpoint_parts import CheckpointParts
from trtcoder.export.graph.float8 import layers as float8_layers
from trtcoder.export.graph.latent_cache import Cache, declare_cache
from trtcoder.export.graph.layers import embedding, mixture_of_experts
from trtcoder.export.graph.router import route
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.experts import Expert, expert_product
from trtcoder.export.weights.matrix import Piece
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.model.config import ModelConfig

FLOAT = ir.DataType.FLOAT


class DeepseekV2Graph:
    """Builds the graph of one checkpoint with one recipe."""

    def __init__(
        self, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.config: ModelConfig = checkpoint.config
        self.recipe = recipe
        self.b = GraphBuilder("deepseek_v2", WeightPlan(quantizer))
        self.parts = CheckpointParts(self.b, checkpoint, recipe)
        self.caches: list[Cache] = []

    def build(self) -> GraphBuilder:
        """Declare the whole graph; no weight is read yet."""
        b, config = self.b, self.config
        self.caches = [
            declare_cache(b, layer, config, self.recipe.cache)
            for layer in range(config.num_hidden_layers)
        ]
        batch = declare_batch(b, config, self.caches[0].entries)
        residual = embedding(
            b,
            "embed_tokens",
            batch.input_ids,
            self.parts.matrix("model.embed_tokens.weight"),
            self.recipe.table_scheme(),
        )
        branch: ir.Value | None = None
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            b.plan.next_stage()
            parts = self.parts.in_layer(layer)
            normed, residual = self._norm(
                f"{name}/input_norm",
                f"model.{name}.input_layernorm.weight",
                residual,
                branch,
                f"layers.{layer - 1}/output",
            )
            attention = latent_attention(parts, layer, normed, batch, self.caches[layer])
            normed, residual = self._norm(
                f"{name}/post_attention_norm",
                f"model.{name}.post_attention_layernorm.weight",
                residual,
                attention,
                f"{name}/attention/residual",
            )
            branch = (
                self._moe(parts, layer, normed)
                if config.is_moe_layer(layer)
                else self._mlp(parts, f"{name}/mlp", f"model.{name}.mlp", normed)
            )
        b.plan.next_stage()
        parts = self.parts.in_layer(None)
        last = f"layers.{config.num_hidden_layers - 1}/output"
        normed, _ = self._norm("final_norm", "model.norm.weight", residual, branch, last)
        sampled = b.op(
            "Gather",
            "sampled",
            [normed, batch.sample_rows],
            ["samples", config.hidden_size],
            axis=0,
        )
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        logits = parts.linear(
            "lm_head",
            "lm_head",
            sampled,
            parts.matrix(head),
            rows="samples",
            activation="final_norm",
        )
        b.output(logits, "logits")
        for cache in self.caches:
            cache.expose(b)
        return b

    def _norm(
        self, name: str, tensor: str, residual: ir.Value, branch: ir.Value | None, total: str
    ) -> tuple[ir.Value, ir.Value]:
        """Add ``branch`` to ``residual`` (the sum is called ``total``) and normalise the sum."""
        b, hidden = self.b, self.config.hidden_size
        weight = self.parts.norm_weight(name, tensor)
        epsilon = self.config.rms_norm_eps
        if branch is None:
            return b.op(
                "RMSNormalization", name, [residual, weight], ["tokens", hidden], epsilon=epsilon
            ), residual
        shape: list[Dim] = ["tokens", hidden]
        normed, _, _, residual = b.multi_op(
            "SkipSimplifiedLayerNormalization",
            name,
            [branch, residual, weight],
            [(name, FLOAT, shape), None, None, (total, FLOAT, shape)],
            domain=CONTRIB,
            epsilon=epsilon,
        )
        return normed, residual

    def _mlp(self, parts: CheckpointParts, name: str, prefix: str, x: ir.Value) -> ir.Value:
        b = self.b
        gate, up = f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight"
        inner = self.checkpoint.shape(gate)[0]
        product_name = f"{name}/product"
        fused = parts.linear(
            f"{name}/gate_up_proj",
            "mlp",
            x,
            parts.matrix(Piece(gate), Piece(up, makes=product_name)),
        )
        gated, raised = parts.split(name, "split", fused, ("gate", "up"), (inner, inner))
        # QuickGelu with alpha 1 is x * sigmoid(x), that is SiLU.
        gated = b.op(
            "QuickGelu", f"{name}/silu", [gated], ["tokens", inner], domain=CONTRIB, alpha=1.0
        )
        product = b.op("Mul", product_name, [gated, raised], ["tokens", inner])
        return parts.linear(
            f"{name}/down_proj", "mlp", product, parts.matrix(f"{prefix}.down_proj.weight")
        )

    def _moe(self, parts: CheckpointParts, layer: int, x: ir.Value) -> ir.Value:
        b, config = self.b, self.config
        name, prefix = f"layers.{layer}/moe", f"model.layers.{layer}.mlp"
        logits = b.op(
            "Gemm",
            f"{name}/router",
            [x, self._router_weight(f"{name}/router/weight", f"{prefix}.gate.weight", x)],
            ["tokens", config.n_routed_experts],
            transB=1,
        )
        gate_up, down = (
            self.recipe.scheme(kind, layer) for kind in ("experts_gate_up", "experts_down")
        )
        with_total = (
            gate_up.activations == "float" if isinstance(gate_up, Float8) else gate_up.is_float
        )
        routing = route(b, name, logits, config, with_total=with_total)
        common = (
            b,
            f"{name}/experts",
            x,
            routing.selection,
            routing.mixing,
            [
                self._expert(f"{prefix}.experts.{index}", expert_product(f"{name}/experts", index))
                for index in range(config.n_routed_experts)
            ],
            config.num_experts_per_tok,
        )
        if isinstance(gate_up, Float8) or isinstance(down, Float8):
            routed = float8_layers.mixture_of_experts(*common, gate_up, down)
        else:
            routed = mixture_of_experts(*common, gate_up, down, self.recipe.accuracy_level)
        shape: list[Dim] = ["tokens", config.hidden_size]
        if routing.total is not None:
            routed = b.op("Mul", f"{name}/scaled", [routed, routing.total], shape)
        if not config.shared_intermediate_size:
            return routed
        shared = self._mlp(parts, f"{name}/shared_experts", f"{prefix}.shared_experts", x)
        return b.op("Add", f"{name}/output", [routed, shared], shape)

    def _expert(self, prefix: str, product_name: str) -> Expert:
        matrix = self.parts.matrix
        return Expert(
            gate=matrix(f"{prefix}.gate_proj.weight"),
            up=matrix(Piece(f"{prefix}.up_proj.weight", makes=product_name)),
            down=matrix(f"{prefix}.down_proj.weight"),
        )

    def _router_weight(self, name: str, tensor: str, x: ir.Value) -> ir.Value:
        def read() -> NDArray[np.float32]:
            values = self.checkpoint.read(tensor)
            scale = self.b.plan.quantizer.input_scale(str(x.name))
            return values if scale is None else values * scale

        return self.parts.parameter(name, "router", self.checkpoint.shape(tensor), tensor, read)
