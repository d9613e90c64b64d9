"""The model configuration: every key of config.json is used, ignored for a reason, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import ConfigError
from trtcoder.model.architecture import ModelConfig, Shapes
from trtcoder.model.deepseek_v2.tensors import expected_tensors
from trtcoder.model.deepseek_v2.yarn import YarnScaling, plain_inverse_frequencies

# (layers, hidden size, routed experts) -> the name it was published under.
PUBLISHED = {
    (27, 2048, 64): "DeepSeek-Coder-V2-Lite",
    (60, 5120, 160): "DeepSeek-Coder-V2",
}


@dataclass(frozen=True, slots=True)
class DeepseekV2Config:
    """A DeepSeek-V2 configuration; fields are Hugging Face's keys.

    Widths are in values, `rope_theta` is the rotary base, `yarn` is None without YaRN, and `raw`
    is the file as read.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    n_shared_experts: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    topk_method: str
    norm_topk_prob: bool
    routed_scaling_factor: float
    first_k_dense_replace: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rms_norm_eps: float
    rope_theta: float
    yarn: YarnScaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    raw: Mapping[str, Any]

    @property
    def qk_head_dim(self) -> int:
        """Width of a query head: the part without position and the rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def cache_width(self) -> int:
        """Values that the latent cache holds for a token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def shared_intermediate_size(self) -> int:
        """Inner width of the shared experts, which are stored as one; 0 without any."""
        return self.n_shared_experts * self.moe_intermediate_size

    @property
    def softmax_scale(self) -> float:
        """What attention scores are multiplied with: qk_head_dim^-1/2, times YaRN's mscale^2."""
        factor = 1.0 if self.yarn is None else self.yarn.softmax_factor
        return float(self.qk_head_dim**-0.5 * factor)

    @property
    def rotary_scale(self) -> float:
        """What cos and sin are multiplied with."""
        return 1.0 if self.yarn is None else self.yarn.rotary_scale

    @property
    def published_name(self) -> str | None:
        """The published model that has these sizes."""
        sizes = (self.num_hidden_layers, self.hidden_size, self.n_routed_experts)
        return PUBLISHED.get(sizes)

    def inverse_frequencies(self) -> NDArray[np.float32]:
        """Return the rotary embedding's radians a position, ``[qk_rope_head_dim / 2]``."""
        if self.yarn is None:
            return plain_inverse_frequencies(self.qk_rope_head_dim, self.rope_theta)
        return self.yarn.inverse_frequencies(self.qk_rope_head_dim, self.rope_theta)

    def is_moe_layer(self, layer: int) -> bool:
        """Whether ``layer`` (from 0) has experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    def expected_tensors(self) -> Shapes:
        """Return name and shape of every tensor that a checkpoint must have."""
        return expected_tensors(self)

    def untied(self) -> DeepseekV2Config:
        """Return the same with an output matrix of its own."""
        raw = {**self.raw, "tie_word_embeddings": False}
        return dataclasses.replace(self, tie_word_embeddings=False, raw=raw)

    @classmethod
    def of(cls, config: ModelConfig) -> DeepseekV2Config:
        """Return ``config`` for what only this architecture has.

        Raises:
            ConfigError: it is of another architecture.
        """
        if not isinstance(config, cls):
            raise ConfigError(
                f"model_type {config.raw.get('model_type')!r}: this is made for deepseek_v2 only"
            )
        return config

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "config") -> DeepseekV2Config:
        """Read the keys of ``data``; ``source`` names it in errors.

        Raises:
            ConfigError: names every key that is missing, unknown, of a wrong type, out of range
                or not supported.
        """
        from trtcoder.model.deepseek_v2.config_reader import (
            ConfigReader,  # which makes instances of this
        )

        reader = ConfigReader(data)
        config = reader.read()
        if reader.problems or config is None:
            raise ConfigError(f"{source}: {'; '.join(reader.problems)}")
        return config
