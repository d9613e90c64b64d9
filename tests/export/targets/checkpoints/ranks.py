"""A quantized checkpoint on several ranks, simulated in NumPy from its files alone.

Each rank cuts what is stored, codes and scales, as the servers' loaders do, and multiplies with its
own share. Where ranks talk, their values meet in a collective: a sum over ranks, or a gathering.
Shares no code with trtcoder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reference.model import choose_experts, softmax
from tests.reference.quantized import (
    QuantizedWeights,
    float8,
    scaled_twice,
    unblocked,
    unpacked,
)
from tests.reference.rotary import Rotary, softmax_scale
from tests.reference.weights import Float64


class Rank:
    """One rank's share of the weights: part ``tp_rank`` of ``tp``, and experts of its own."""

    def __init__(
        self, weights: QuantizedWeights, config: dict[str, Any], tp_rank: int, tp: int, ep: int
    ) -> None:
        self.weights, self.config = weights, config
        self.tp_rank, self.tp = tp_rank, tp
        count = config.get("n_routed_experts") or 0
        # The ranks of an expert-parallel group have consecutive experts; with several ranks a
        # group, these share each expert's inner width.
        self.inner_parts = tp // ep
        share = tp_rank // self.inner_parts
        self.experts = range(share * count // ep, (share + 1) * count // ep)
        self.inner_part = tp_rank % self.inner_parts

    def rows(self, module: str, part: int | None = None, parts: int | None = None) -> Float64:
        """Return this rank's rows of a module (column parallelism)."""
        return self._cut(module, part, parts, axis=0)

    def columns(self, module: str, part: int | None = None, parts: int | None = None) -> Float64:
        """Return this rank's columns of a module (row parallelism)."""
        return self._cut(module, part, parts, axis=1)

    def _cut(self, module: str, part: int | None, parts: int | None, axis: int) -> Float64:
        part = self.tp_rank if part is None else part
        parts = self.tp if parts is None else parts

        def share(role: str, axis: int = axis) -> NDArray[Any]:
            stored = self.weights.stored(module, role)
            assert stored is not None
            size, left = divmod(stored.shape[axis], parts)
            assert left == 0, f"{module}.{role} {stored.shape} does not divide by {parts}"
            return stored.take(range(part * size, (part + 1) * size), axis)

        if f"{module}.weight_packed" in self.weights:
            zeros = None
            if f"{module}.weight_zero_point" in self.weights:
                zeros = share("weight_zero_point")
            found = unpacked(share("weight_packed"), share("weight_scale"), zeros)
        elif f"{module}.weight_scale_2" in self.weights:
            scale = self.weights.raw(f"{module}.weight_scale_2")
            found = scaled_twice(share("weight"), share("weight_scale"), scale)
        elif self.weights.dtype(f"{module}.weight") != "F8_E4M3":
            found = share("weight")
        elif f"{module}.weight_scale_inv" in self.weights:
            found = unblocked(share("weight"), share("weight_scale_inv"))
        else:
            found = float8(share("weight")) * float(self.weights.raw(f"{module}.weight_scale"))
        return found


def all_reduce(parts: Sequence[Float64]) -> Float64:
    """Return the sum over ranks, which each of them then has."""
    total: Float64 = np.sum(parts, axis=0)
    return total


def all_gather(parts: Sequence[Float64]) -> Float64:
    """Return the ranks' columns side by side."""
    return np.concatenate(parts, -1)


class Ranks:
    """All ranks of one pipeline stage."""

    def __init__(self, folder: Path, tp: int, ep: int) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = QuantizedWeights(folder)
        self.ranks = [Rank(self.weights, self.config, rank, tp, ep) for rank in range(tp)]

    def embed(self, ids: Sequence[int]) -> Float64:
        """Look tokens up: each rank has some rows of the table, and zeros for other tokens."""
        found = []
        for rank in self.ranks:
            table = rank.rows("model.embed_tokens")
            own = np.asarray(ids) - rank.tp_rank * len(table)
            inside = (own >= 0) & (own < len(table))
            found.append(np.where(inside[:, None], table[np.where(inside, own, 0)], 0.0))
        return all_reduce(found)

    def layers(self, stream: Float64, layers: Sequence[int]) -> Float64:
        """Run some layers: a stage of the pipeline, whose ranks hand ``stream`` on."""
        config = self.config
        rotary = Rotary(config, np.arange(len(stream)))
        for layer in layers:
            name = f"model.layers.{layer}"
            x = self._norm(stream, f"{name}.input_layernorm", config["rms_norm_eps"])
            stream = stream + self._attention(x, f"{name}.self_attn", rotary)
            x = self._norm(stream, f"{name}.post_attention_layernorm", config["rms_norm_eps"])
            dense = layer < config["first_k_dense_replace"]
            stream = stream + (
                self._mlp(x, f"{name}.mlp") if dense else self._moe(x, f"{name}.mlp")
            )
        return stream

    def logits(self, stream: Float64) -> Float64:
        """Return the logits: each rank has some of the vocabulary."""
        x = self._norm(stream, "model.norm", self.config["rms_norm_eps"])
        return all_gather([x @ rank.rows("lm_head").T for rank in self.ranks])

    def _norm(self, x: Float64, module: str, epsilon: float) -> Float64:
        size = np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon)
        normed: Float64 = x / size * self.weights[f"{module}.weight"]
        return normed

    def _attention(self, x: Float64, name: str, rotary: Rotary) -> Float64:
        config, tokens = self.config, len(x)
        nope, rank_width = config["qk_nope_head_dim"], config["kv_lora_rank"]
        heads = config["num_attention_heads"] // len(self.ranks)
        # What has no heads is whole on every rank.
        joint = x @ self.weights[f"{name}.kv_a_proj_with_mqa.weight"].T
        latent = self._norm(joint[:, :rank_width], f"{name}.kv_a_layernorm", 1e-6)
        turned = rotary.turn(joint[:, None, rank_width:])
        future = np.triu(np.ones((tokens, tokens), bool), 1)
        found = []
        for rank in self.ranks:
            if config.get("q_lora_rank") is None:
                queries = x @ rank.rows(f"{name}.q_proj").T
            else:
                low = x @ self.weights[f"{name}.q_a_proj.weight"].T
                low = self._norm(low, f"{name}.q_a_layernorm", 1e-6)
                queries = low @ rank.rows(f"{name}.q_b_proj").T
            queries = queries.reshape(tokens, heads, -1)
            expanded = (latent @ rank.rows(f"{name}.kv_b_proj").T).reshape(tokens, heads, -1)
            keys = np.concatenate([expanded[..., :nope], np.repeat(turned, heads, 1)], -1)
            queries = np.concatenate([queries[..., :nope], rotary.turn(queries[..., nope:])], -1)
            scores = np.einsum("qhd,khd->hqk", queries, keys) * softmax_scale(config)
            weights = softmax(np.where(future, -np.inf, scores))
            mixed = np.einsum("hqk,khd->qhd", weights, expanded[..., nope:]).reshape(tokens, -1)
            found.append(mixed @ rank.columns(f"{name}.o_proj").T)
        return all_reduce(found)

    def _mlp(self, x: Float64, name: str) -> Float64:
        return all_reduce([swiglu(rank, x, name, rank.tp_rank, rank.tp) for rank in self.ranks])

    def _moe(self, x: Float64, name: str) -> Float64:
        scores = softmax(x @ self.weights[f"{name}.gate.weight"].T)
        chosen = np.stack([choose_experts(row, self.config) for row in scores])
        mixing = np.take_along_axis(scores, chosen, -1) * self.config["routed_scaling_factor"]
        found = []
        for rank in self.ranks:
            output = np.zeros_like(x)
            for expert in rank.experts:
                token, slot = np.nonzero(chosen == expert)
                if len(token):
                    made = swiglu(
                        rank, x[token], f"{name}.experts.{expert}", rank.inner_part,
                        rank.inner_parts,
                    )  # fmt: skip
                    output[token] += mixing[token, slot, None] * made
            found.append(output)
        return all_reduce(found) + self._mlp(x, f"{name}.shared_experts")


def swiglu(rank: Rank, x: Float64, name: str, part: int, parts: int) -> Float64:
    """Return one part's contribution to an MLP's output."""
    gate = x @ rank.rows(f"{name}.gate_proj", part, parts).T
    up = x @ rank.rows(f"{name}.up_proj", part, parts).T
    gated = gate * 0.5 * (1 + np.tanh(gate / 2))
    made: Float64 = (gated * up) @ rank.columns(f"{name}.down_proj", part, parts).T
    return made
