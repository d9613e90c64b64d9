"""The DeepSeek-V2 architecture as a graph over a packed, ragged batch.

Sources: DeepSeek-V2 (arXiv 2405.04434), sections 2.1 (multi-head latent attention) and 2.2
(DeepSeekMoE); transformers 5.23.0, models/deepseek_v2/modeling_deepseek_v2.py.

Attention is absorbed: the cache holds the normalised latent c_kv and the rotated shared key k_pe,
the query is brought into the latent space by W_UK, and the output back out of it by W_UV, so keys
and values per head are never formed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.checkpoint import Checkpoint
from trtcoder.config import ModelConfig
from trtcoder.export.batch import Batch, declare_batch
from trtcoder.export.builder import CONTRIB, Dim, GraphBuilder
from trtcoder.export.cache import Cache, declare_cache, store
from trtcoder.export.layers import Expert, embedding, linear, mixture_of_experts, parameter
from trtcoder.export.recipe import Recipe
from trtcoder.export.routing import route
from trtcoder.export.sources import Matrix, Piece

FLOAT = ir.DataType.FLOAT


class DeepseekV2Graph:
    """Builds the graph of one checkpoint with one recipe."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe) -> None:
        self.checkpoint = checkpoint
        self.config: ModelConfig = checkpoint.config
        self.recipe = recipe
        self.b = GraphBuilder("deepseek_v2")
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
            self._matrix("model.embed_tokens.weight"),
            self.recipe.embedding,
        )
        branch: ir.Value | None = None
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            normed, residual = self._norm(
                f"{name}/input_norm",
                f"model.{name}.input_layernorm.weight",
                residual,
                branch,
                f"layers.{layer - 1}/output",
            )
            attention = self._attention(layer, normed, batch)
            normed, residual = self._norm(
                f"{name}/post_attention_norm",
                f"model.{name}.post_attention_layernorm.weight",
                residual,
                attention,
                f"{name}/attention/residual",
            )
            branch = (
                self._moe(layer, normed)
                if config.is_moe_layer(layer)
                else self._mlp(f"{name}/mlp", f"model.{name}.mlp", normed)
            )
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
        logits = linear(
            b,
            "lm_head",
            sampled,
            self._matrix(head),
            self.recipe.lm_head,
            self.recipe.accuracy_level,
            rows="samples",
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
        weight = self._vector(f"{name}/weight", tensor)
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

    def _attention(self, layer: int, x: ir.Value, batch: Batch) -> ir.Value:
        b, config = self.b, self.config
        name, prefix = f"layers.{layer}/attention", f"model.layers.{layer}.self_attn"
        heads, latent = config.num_attention_heads, config.kv_lora_rank
        nope, rope, value = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        )
        q_nope, c_kv, pe = self._queries_and_latent(name, prefix, x)
        c_kv = b.op(
            "RMSNormalization",
            f"{name}/kv_norm",
            [c_kv, self._vector(f"{name}/kv_norm/weight", f"{prefix}.kv_a_layernorm.weight")],
            ["tokens", latent],
            epsilon=1e-6,
        )
        # The rotary part of all heads, and the key's that they share, turn in one node.
        pe = self._rotate(f"{name}/rotary", pe, heads + 1, batch)
        q_pe, k_pe = b.multi_op(
            "Split",
            f"{name}/split_rotary",
            [pe, b.ints(heads * rope, rope)],
            [
                (f"{name}/q_pe", FLOAT, ["tokens", heads * rope]),
                (f"{name}/k_pe", FLOAT, ["tokens", rope]),
            ],
            axis=1,
        )
        entry = b.op(
            "Concat", f"{name}/latent", [c_kv, k_pe], ["tokens", config.cache_width], axis=1
        )
        keys = store(b, self.caches[layer], name, entry, batch)
        query = b.op(
            "Concat",
            f"{name}/query",
            [
                b.op(
                    "MatMul",
                    f"{name}/absorb_k",
                    [
                        self._by_head(f"{name}/q_nope_heads", q_nope, heads, nope),
                        self._absorbed(name, prefix, "k"),
                    ],
                    [heads, "tokens", latent],
                ),
                self._by_head(f"{name}/q_pe_heads", q_pe, heads, rope),
            ],
            [heads, "tokens", config.cache_width],
            axis=2,
        )
        scores = b.op(
            "FusedMatMul",
            f"{name}/scores",
            [query, keys],
            [heads, "tokens", "rows"],
            domain=CONTRIB,
            transB=1,
            alpha=config.softmax_scale,
        )
        scores = b.op("Add", f"{name}/masked", [scores, batch.bias], [heads, "tokens", "rows"])
        weights = b.op("Softmax", f"{name}/softmax", [scores], [heads, "tokens", "rows"], axis=-1)
        # Multiplying with the whole row and dropping k_pe's share is cheaper than a strided copy
        # of the cache.
        mixed = b.op(
            "MatMul", f"{name}/mix", [weights, keys], [heads, "tokens", config.cache_width]
        )
        mixed = b.op(
            "Slice",
            f"{name}/mixed_latent",
            [mixed, b.ints(0), b.ints(latent), b.ints(2)],
            [heads, "tokens", latent],
        )
        out = b.op(
            "MatMul",
            f"{name}/absorb_v",
            [mixed, self._absorbed(name, prefix, "v")],
            [heads, "tokens", value],
        )
        out = b.op("Transpose", f"{name}/by_token", [out], ["tokens", heads, value], perm=[1, 0, 2])
        out = b.op(
            "Reshape", f"{name}/heads", [out, b.ints(-1, heads * value)], ["tokens", heads * value]
        )
        return self._linear(f"{name}/o_proj", out, self._matrix(f"{prefix}.o_proj.weight"))

    def _queries_and_latent(
        self, name: str, prefix: str, x: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return q_nope ``[tokens, heads * nope]``, c_kv before its norm, and q_pe with k_pe.

        The rows of the projections are reordered so that one product yields the three runs, each
        of them contiguous.
        """
        b, config = self.b, self.config
        heads, nope, rope = (
            config.num_attention_heads,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
        )
        latent = config.kv_lora_rank
        by_head = np.arange(heads * (nope + rope), dtype=np.int64).reshape(heads, nope + rope)
        nope_rows, pe_rows = by_head[:, :nope].ravel(), by_head[:, nope:].ravel()
        kv_a = f"{prefix}.kv_a_proj_with_mqa.weight"
        latent_rows = np.arange(latent, dtype=np.int64)
        k_pe_rows = np.arange(latent, latent + rope, dtype=np.int64)
        if config.q_lora_rank is None:
            q_proj = f"{prefix}.q_proj.weight"
            fused = self._linear(
                f"{name}/q_kv_a_proj",
                x,
                self._matrix(
                    Piece(q_proj, nope_rows),
                    Piece(kv_a, latent_rows),
                    Piece(q_proj, pe_rows),
                    Piece(kv_a, k_pe_rows),
                ),
            )
            sizes = (heads * nope, latent, (heads + 1) * rope)
            q_nope, c_kv, pe = self._split(name, "split", fused, ("q_nope", "c_kv", "pe"), sizes)
            return q_nope, c_kv, pe
        rank = config.q_lora_rank
        fused = self._linear(
            f"{name}/q_a_kv_a_proj",
            x,
            self._matrix(Piece(f"{prefix}.q_a_proj.weight"), Piece(kv_a)),
        )
        q_a, c_kv, k_pe = self._split(
            name, "split_a", fused, ("q_a", "c_kv", "k_pe_raw"), (rank, latent, rope)
        )
        q_a = b.op(
            "RMSNormalization",
            f"{name}/q_norm",
            [q_a, self._vector(f"{name}/q_norm/weight", f"{prefix}.q_a_layernorm.weight")],
            ["tokens", rank],
            epsilon=1e-6,
        )
        q_b = f"{prefix}.q_b_proj.weight"
        q = self._linear(
            f"{name}/q_b_proj", q_a, self._matrix(Piece(q_b, nope_rows), Piece(q_b, pe_rows))
        )
        q_nope, q_pe = self._split(
            name, "split_b", q, ("q_nope", "q_pe_raw"), (heads * nope, heads * rope)
        )
        pe = b.op("Concat", f"{name}/pe", [q_pe, k_pe], ["tokens", (heads + 1) * rope], axis=1)
        return q_nope, c_kv, pe

    def _rotate(self, name: str, x: ir.Value, heads: int, batch: Batch) -> ir.Value:
        """Rotate interleaved pairs of ``x`` ``[tokens, heads * rope]`` by the tokens' positions."""
        b, width = self.b, heads * self.config.qk_rope_head_dim
        batched = b.op("Unsqueeze", f"{name}/batched", [x, b.ints(0)], [1, "tokens", width])
        rotated = b.op(
            "RotaryEmbedding",
            name,
            [batched, batch.cos, batch.sin],
            [1, "tokens", width],
            interleaved=1,
            num_heads=heads,
        )
        return b.op("Squeeze", f"{name}/packed", [rotated, b.ints(0)], ["tokens", width])

    def _by_head(self, name: str, x: ir.Value, heads: int, width: int) -> ir.Value:
        b = self.b
        split = b.op(
            "Reshape", f"{name}/split", [x, b.ints(-1, heads, width)], ["tokens", heads, width]
        )
        return b.op("Transpose", name, [split], [heads, "tokens", width], perm=[1, 0, 2])

    def _absorbed(self, name: str, prefix: str, role: str) -> ir.Value:
        """Return W_UK ``[heads, nope, latent]`` (k) or W_UV transposed ``[heads, latent, v]`` (v).

        Both stay float32: no stock kernel multiplies batches with quantized weights.
        """
        config = self.config
        heads, nope, latent = (
            config.num_attention_heads,
            config.qk_nope_head_dim,
            config.kv_lora_rank,
        )
        tensor = f"{prefix}.kv_b_proj.weight"

        def read() -> NDArray[np.float32]:
            whole = self.checkpoint.read(tensor).reshape(heads, nope + config.v_head_dim, latent)
            if role == "k":
                return np.ascontiguousarray(whole[:, :nope])
            return np.ascontiguousarray(whole[:, nope:].transpose(0, 2, 1))

        shape = (heads, nope, latent) if role == "k" else (heads, latent, config.v_head_dim)
        return parameter(self.b, f"{name}/absorb_{role}/weight", shape, (tensor,), read)

    def _mlp(self, name: str, prefix: str, x: ir.Value) -> ir.Value:
        b = self.b
        gate, up = f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight"
        inner = self.checkpoint.shape(gate)[0]
        fused = self._linear(f"{name}/gate_up_proj", x, self._matrix(Piece(gate), Piece(up)))
        gated, raised = self._split(name, "split", fused, ("gate", "up"), (inner, inner))
        # QuickGelu with alpha 1 is x * sigmoid(x), that is SiLU.
        gated = b.op(
            "QuickGelu", f"{name}/silu", [gated], ["tokens", inner], domain=CONTRIB, alpha=1.0
        )
        product = b.op("Mul", f"{name}/product", [gated, raised], ["tokens", inner])
        return self._linear(
            f"{name}/down_proj", product, self._matrix(f"{prefix}.down_proj.weight")
        )

    def _moe(self, layer: int, x: ir.Value) -> ir.Value:
        b, config = self.b, self.config
        name, prefix = f"layers.{layer}/moe", f"model.layers.{layer}.mlp"
        gate = self._matrix(f"{prefix}.gate.weight")
        logits = b.op(
            "Gemm",
            f"{name}/router",
            [
                x,
                parameter(
                    b, f"{name}/router/weight", (gate.rows, gate.width), gate.tensors, gate.read
                ),
            ],
            ["tokens", config.n_routed_experts],
            transB=1,
        )
        routing = route(b, name, logits, config, with_total=self.recipe.experts.is_float)
        experts = [
            Expert(
                *(
                    self._matrix(f"{prefix}.experts.{index}.{role}_proj.weight")
                    for role in ("gate", "up", "down")
                )
            )
            for index in range(config.n_routed_experts)
        ]
        routed = mixture_of_experts(
            b,
            f"{name}/experts",
            x,
            routing.selection,
            routing.mixing,
            experts,
            config.num_experts_per_tok,
            self.recipe.experts,
            self.recipe.accuracy_level,
        )
        shape: list[Dim] = ["tokens", config.hidden_size]
        if routing.total is not None:
            routed = b.op("Mul", f"{name}/scaled", [routed, routing.total], shape)
        if not config.shared_intermediate_size:
            return routed
        shared = self._mlp(f"{name}/shared_experts", f"{prefix}.shared_experts", x)
        return b.op("Add", f"{name}/output", [routed, shared], shape)

    def _split(
        self, name: str, role: str, x: ir.Value, outputs: tuple[str, ...], sizes: tuple[int, ...]
    ) -> list[ir.Value]:
        return self.b.multi_op(
            "Split",
            f"{name}/{role}",
            [x, self.b.ints(*sizes)],
            [
                (f"{name}/{output}", FLOAT, ["tokens", size])
                for output, size in zip(outputs, sizes, strict=True)
            ],
            axis=1,
        )

    def _linear(self, name: str, x: ir.Value, source: Matrix) -> ir.Value:
        return linear(self.b, name, x, source, self.recipe.linear, self.recipe.accuracy_level)

    def _matrix(self, *pieces: str | Piece) -> Matrix:
        return Matrix(
            self.checkpoint,
            tuple(Piece(piece) if isinstance(piece, str) else piece for piece in pieces),
        )

    def _vector(self, name: str, tensor: str) -> ir.Value:
        return parameter(
            self.b,
            name,
            self.checkpoint.shape(tensor),
            (tensor,),
            lambda: self.checkpoint.read(tensor),
        )
