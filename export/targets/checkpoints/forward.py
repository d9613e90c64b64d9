"""DeepSeek-V2 in NumPy over the values that a quantized checkpoint stores, a layer at a time.

Sources: DeepSeek-V2 (arXiv 2405.04434), appendix C for attention, section 2.2 for the experts. It
shares no code with the reference, and knows of the checkpoint only what its files say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage.float8 import BLOCK, LARGEST, SMALLEST_SCALE
from trtcoder.calib.storage.nvfp4 import round_activations
from trtcoder.errors import CheckpointError
from trtcoder.export.parity.routing import select_experts
from trtcoder.export.targets.checkpoints.twin import Twin

Floats = NDArray[np.float32]
# Of the two norms inside attention, whatever rms_norm_eps is: so the published code has it.
_INNER_EPSILON = 1e-6
# Rows of the output matrix that are in float32 at once.
_HEAD_ROWS = 8192


@dataclass(slots=True)
class Passing:
    """One sequence on its way through the layers: its residual stream ``[T, H]`` and rotation."""

    stream: Floats
    cos: Floats
    sin: Floats


class Forward:
    """Runs sequences through a twin's layers, in float32.

    ``rounds`` lets quantized float8 and NVFP4 modules round what they multiply, as servers do: by
    the stored scale, or by the largest magnitude of each token's 128 channels; NVFP4 by both, for
    each token's 16 channels.
    """

    def __init__(self, twin: Twin, *, rounds: bool) -> None:
        self.twin, self._rounds = twin, rounds
        self._config = twin.config

    def start(self, ids: NDArray[np.int64], positions: NDArray[np.int64]) -> Passing:
        """Return a sequence before the first layer."""
        config = self._config
        angles = positions.astype(np.float32)[:, None] * config.inverse_frequencies()
        scale = np.float32(config.rotary_scale)
        stream = self.twin.read("model.embed_tokens.weight", ids)
        return Passing(stream, np.cos(angles) * scale, np.sin(angles) * scale)

    def run_layer(self, layer: int, states: Sequence[Passing]) -> Floats | None:
        """Run all sequences through a layer.

        Returns the router's probabilities ``[all tokens, E]``, None in a dense layer.
        """
        prefix, epsilon = f"model.layers.{layer}", self._config.rms_norm_eps
        weight = self.twin.read(f"{prefix}.input_layernorm.weight")
        normed = [_norm(state.stream, weight, epsilon) for state in states]
        self._attention(f"{prefix}.self_attn", states, normed)
        weight = self.twin.read(f"{prefix}.post_attention_layernorm.weight")
        x = _norm(np.concatenate([state.stream for state in states]), weight, epsilon)
        if self._config.is_moe_layer(layer):
            output, probabilities = self._experts(f"{prefix}.mlp", x)
        else:
            output, probabilities = self._mlp(f"{prefix}.mlp", x), None
        start = 0
        for state in states:
            state.stream = state.stream + output[start : start + len(state.stream)]
            start += len(state.stream)
        return probabilities

    def logits(self, state: Passing) -> Floats:
        """Return the logits ``[T, V]`` of a sequence behind the last layer."""
        config = self._config
        x = _norm(state.stream, self.twin.read("model.norm.weight"), config.rms_norm_eps)
        head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        found = np.empty((len(x), config.vocab_size), np.float32)
        for start in range(0, config.vocab_size, _HEAD_ROWS):
            rows = slice(start, min(start + _HEAD_ROWS, config.vocab_size))
            found[:, rows] = x @ self.twin.read(f"{head}.weight", rows).T
        return found

    def _attention(self, prefix: str, states: Sequence[Passing], normed: Sequence[Floats]) -> None:
        """Add attention to the streams: keys and values are expanded, nothing is absorbed."""
        config = self._config
        heads, nope = config.num_attention_heads, config.qk_nope_head_dim
        rank, sizes = config.kv_lora_rank, [len(x) for x in normed]
        x = np.concatenate(normed)
        if config.q_lora_rank is None:
            queries = self._linear(f"{prefix}.q_proj", x)
        else:
            weight = self.twin.read(f"{prefix}.q_a_layernorm.weight")
            latent = _norm(self._linear(f"{prefix}.q_a_proj", x), weight, _INNER_EPSILON)
            queries = self._linear(f"{prefix}.q_b_proj", latent)
        joint = self._linear(f"{prefix}.kv_a_proj_with_mqa", x)
        weight = self.twin.read(f"{prefix}.kv_a_layernorm.weight")
        latent = _norm(joint[:, :rank], weight, _INNER_EPSILON)
        expanded = self._linear(f"{prefix}.kv_b_proj", latent)
        mixed, ends = [], np.cumsum(sizes)
        for state, stop, size in zip(states, ends.tolist(), sizes, strict=True):
            rows = slice(stop - size, stop)
            query = queries[rows].reshape(size, heads, -1)
            both = expanded[rows].reshape(size, heads, -1)
            turned = _turn(joint[rows, None, rank:], state)
            keys = np.concatenate([both[..., :nope], np.repeat(turned, heads, 1)], -1)
            query = np.concatenate([query[..., :nope], _turn(query[..., nope:], state)], -1)
            mixed.append(_attend(query, keys, both[..., nope:], config.softmax_scale))
        output = self._linear(f"{prefix}.o_proj", np.concatenate(mixed))
        for state, stop, size in zip(states, ends.tolist(), sizes, strict=True):
            state.stream = state.stream + output[stop - size : stop]

    def _mlp(self, prefix: str, x: Floats) -> Floats:
        gate = self._linear(f"{prefix}.gate_proj", x)
        up = self._linear(f"{prefix}.up_proj", x)
        # x * sigmoid(x), in the form that does not overflow
        gated = gate * np.float32(0.5) * (1 + np.tanh(gate * np.float32(0.5)))
        return self._linear(f"{prefix}.down_proj", gated * up)

    def _experts(self, prefix: str, x: Floats) -> tuple[Floats, Floats]:
        config = self._config
        probabilities = _softmax(x @ self.twin.read(f"{prefix}.gate.weight").T)
        chosen = select_experts(probabilities, config)
        mixing = np.take_along_axis(probabilities, chosen, -1)
        if config.norm_topk_prob and config.num_experts_per_tok > 1:
            mixing = mixing / mixing.sum(-1, keepdims=True)
        else:
            mixing = mixing * np.float32(config.routed_scaling_factor)
        output = np.zeros_like(x)
        for expert in range(config.n_routed_experts):
            token, slot = np.nonzero(chosen == expert)
            if len(token):
                made = self._mlp(f"{prefix}.experts.{expert}", x[token])
                output[token] += mixing[token, slot, None] * made
        if config.shared_intermediate_size:
            output += self._mlp(f"{prefix}.shared_experts", x)
        return output, probabilities

    def _linear(self, module: str, x: Floats) -> Floats:
        if self._rounds and self.twin.is_nvfp4(module):
            x = self._rounded_to_nvfp4(module, x)
        elif self._rounds and self.twin.is_float8(module):
            x = self._rounded(module, x)
        product: Floats = x @ self.twin.read(f"{module}.weight").T
        return product

    def _rounded(self, module: str, x: Floats) -> Floats:
        """Return ``x`` ``[T, K]`` as float8 holds it."""
        stored = self.twin.input_scale(module)
        by_block = x.reshape(len(x), -1, BLOCK) if stored is None else x[:, None]
        if stored is None:
            scale = np.abs(by_block).max(-1, keepdims=True) / np.float32(LARGEST)
            scale = np.maximum(scale, np.float32(SMALLEST_SCALE))
        else:
            scale = stored.reshape(1, 1, 1)
        levels = np.clip(by_block / scale, -LARGEST, LARGEST)
        rounded: Floats = levels.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
        return rounded.reshape(x.shape)

    def _rounded_to_nvfp4(self, module: str, x: Floats) -> Floats:
        """Return ``x`` ``[T, K]`` as NVFP4 holds it."""
        stored = self.twin.input_scale(module)
        if stored is None:
            raise CheckpointError(f"{self.twin.folder}: {module} is NVFP4 and has no input_scale")
        return round_activations(x, stored.reshape(1))


def _norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    variance = np.mean(x * x, -1, keepdims=True) + np.float32(epsilon)
    normed: Floats = x / np.sqrt(variance) * weight
    return normed


def _turn(x: Floats, state: Passing) -> Floats:
    """Turn neighbouring pairs of ``[T, heads, width]``."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = state.cos[:, None], state.sin[:, None]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def _attend(query: Floats, keys: Floats, values: Floats, scale: float) -> Floats:
    """Return ``[T, heads * v]``; query and keys are ``[T, heads, d]``, values ``[T, heads, v]``."""
    scores = query.transpose(1, 0, 2) @ keys.transpose(1, 2, 0) * np.float32(scale)
    future = np.triu(np.ones(scores.shape[1:], bool), 1)
    weights = _softmax(np.where(future, np.float32(-np.inf), scores))
    mixed = weights @ values.transpose(1, 0, 2)
    return mixed.transpose(1, 0, 2).reshape(len(query), -1)


def _softmax(x: Floats) -> Floats:
    powers = np.exp(x - x.max(-1, keepdims=True))
    normed: Floats = powers / powers.sum(-1, keepdims=True)
    return normed
