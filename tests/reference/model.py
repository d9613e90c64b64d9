"""DeepSeek-V2 (arXiv 2405.04434) in NumPy float64: full keys and values, one expert at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rotary import Rotary, softmax_scale
from .weights import Float64, Weights


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is compared, for one sequence of T tokens.

    Attributes:
        logits: ``[T, V]``.
        hidden: ``[L, T, H]``, the residual stream after each layer.
        router_probabilities: ``[Lm, T, E]``, softmax over all experts.
        router_topk: int64 ``[Lm, T, k]``, ids of the chosen experts, ascending.
    """

    logits: Float64
    hidden: Float64
    router_probabilities: Float64
    router_topk: NDArray[np.int64]


class NumpyReference:
    """A checkpoint's forward pass; weights are read again for each run."""

    def __init__(self, folder: Path, weights: Weights | None = None) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        self._weights = weights or Weights(folder)

    def run(self, ids: Sequence[int], positions: Sequence[int] | None = None) -> Trace:
        """Run one sequence; ``positions`` are ascending and count from 0 if not given."""
        where = np.asarray(range(len(ids)) if positions is None else positions, np.int64)
        rotary = Rotary(self.config, where)
        stream = self._weights["model.embed_tokens.weight"][list(ids)]
        hidden, probabilities, chosen = [], [], []
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            normed = self._norm(stream, f"{name}.input_layernorm", self.config["rms_norm_eps"])
            stream = stream + self._attention(normed, f"{name}.self_attn", rotary)
            normed = self._norm(
                stream, f"{name}.post_attention_layernorm", self.config["rms_norm_eps"]
            )
            if self._is_mixture(layer):
                output, scores, experts = self._mixture(normed, f"{name}.mlp")
                probabilities.append(scores)
                chosen.append(experts)
            else:
                output = self._mlp(normed, f"{name}.mlp")
            stream = stream + output
            hidden.append(stream)
        final = self._norm(stream, "model.norm", self.config["rms_norm_eps"])
        tied = self.config.get("tie_word_embeddings", False)
        head = self._weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        return Trace(final @ head.T, np.stack(hidden), np.array(probabilities), np.array(chosen))

    def _is_mixture(self, layer: int) -> bool:
        config = self.config
        started = layer >= config.get("first_k_dense_replace", 0)
        return bool(config.get("n_routed_experts")) and started

    def _norm(self, x: Float64, name: str, epsilon: float) -> Float64:
        size = np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon)
        normed: Float64 = x / size * self._weights[f"{name}.weight"]
        return normed

    def _linear(self, x: Float64, name: str) -> Float64:
        return x @ self._weights[f"{name}.weight"].T

    def _attention(self, x: Float64, name: str, rotary: Rotary) -> Float64:
        """Equations 37 to 47 of appendix C: keys and values are expanded, nothing is absorbed."""
        config, tokens = self.config, len(x)
        heads, nope = config["num_attention_heads"], config["qk_nope_head_dim"]
        rank = config["kv_lora_rank"]
        # The two inner norms have an epsilon of their own, which config.json does not carry.
        if config.get("q_lora_rank") is None:
            queries = self._linear(x, f"{name}.q_proj")
        else:
            latent = self._norm(self._linear(x, f"{name}.q_a_proj"), f"{name}.q_a_layernorm", 1e-6)
            queries = self._linear(latent, f"{name}.q_b_proj")
        queries = queries.reshape(tokens, heads, -1)
        joint = self._linear(x, f"{name}.kv_a_proj_with_mqa")
        latent = self._norm(joint[:, :rank], f"{name}.kv_a_layernorm", 1e-6)
        expanded = self._linear(latent, f"{name}.kv_b_proj").reshape(tokens, heads, -1)
        turned = rotary.turn(joint[:, None, rank:])
        keys = np.concatenate([expanded[..., :nope], np.repeat(turned, heads, 1)], -1)
        queries = np.concatenate([queries[..., :nope], rotary.turn(queries[..., nope:])], -1)
        scores = np.einsum("qhd,khd->hqk", queries, keys) * softmax_scale(config)
        future = np.triu(np.ones((tokens, tokens), bool), 1)
        weights = softmax(np.where(future, -np.inf, scores))
        mixed = np.einsum("hqk,khd->qhd", weights, expanded[..., nope:])
        return self._linear(mixed.reshape(tokens, -1), f"{name}.o_proj")

    def _mlp(self, x: Float64, name: str) -> Float64:
        gate = self._linear(x, f"{name}.gate_proj")
        # x * sigmoid(x), in the form that does not overflow
        gated = gate * 0.5 * (1 + np.tanh(gate / 2))
        return self._linear(gated * self._linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def _mixture(self, x: Float64, name: str) -> tuple[Float64, Float64, NDArray[np.int64]]:
        """Equations 20 to 22, and device-limited routing (2.2.2) where the model has groups."""
        config = self.config
        scores = softmax(self._linear(x, f"{name}.gate"))
        chosen = np.stack([choose_experts(row, config) for row in scores])
        weights = np.take_along_axis(scores, chosen, -1)
        # The released code does one or the other; the paper's equation 21 has neither.
        if config.get("norm_topk_prob") and config["num_experts_per_tok"] > 1:
            weights = weights / weights.sum(-1, keepdims=True)
        else:
            weights = weights * config.get("routed_scaling_factor", 1.0)
        output = np.zeros_like(x)
        for expert in range(config["n_routed_experts"]):
            token, slot = np.nonzero(chosen == expert)
            if len(token):
                result = self._mlp(x[token], f"{name}.experts.{expert}")
                output[token] += weights[token, slot, None] * result
        if config.get("n_shared_experts"):
            output += self._mlp(x, f"{name}.shared_experts")
        return output, scores, chosen


def choose_experts(scores: Float64, config: dict[str, Any]) -> NDArray[np.int64]:
    """Return the ids of one token's experts, ascending; ``scores`` has the shape [experts]."""
    allowed = np.arange(len(scores))
    if config["topk_method"] == "group_limited_greedy":
        groups = scores.reshape(config["n_group"], -1)
        best = np.argsort(-groups.max(-1), kind="stable")[: config["topk_group"]]
        allowed = allowed.reshape(groups.shape)[best].ravel()
    order = np.argsort(-scores[allowed], kind="stable")[: config["num_experts_per_tok"]]
    return np.sort(allowed[order])


def softmax(x: Float64) -> Float64:
    """Softmax over the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    normed: Float64 = powers / powers.sum(-1, keepdims=True)
    return normed
