"""The model configuration: every key of config.json is used, ignored for a reason, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import ConfigError
from trtcoder.model.yarn import YarnScaling, plain_inverse_frequencies

# Keys that do not change what the model computes at inference.
IGNORED = {
    "_name_or_path": "where the file came from",
    "architectures": "model_type says it",
    "attention_dropout": "training only",
    "auto_map": "names remote code, which is never run",
    "aux_loss_alpha": "training only",
    "dtype": "the shards' own types are read",
    "ep_size": "a deployment choice",
    "head_dim": "transformers' alias of qk_rope_head_dim",
    "initializer_range": "training only",
    "num_key_value_heads": "the latent is shared by all heads",
    "output_router_logits": "training only",
    "pad_token_id": "batches are packed, nothing is padded",
    "pretraining_tp": "how it was trained",
    "seq_aux": "training only",
    "mlp_bias": "checked to be false",
    "torch_dtype": "the shards' own types are read",
    "transformers_version": "what wrote the file",
    "use_cache": "the engine always has one",
    "rope_interleave": "the published models rotate interleaved pairs",
}

# Keys with the one value that trtcoder can do.
FIXED: dict[str, tuple[object, ...]] = {
    "model_type": ("deepseek_v2",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "scoring_func": ("softmax",),
    "moe_layer_freq": (1,),
    "rope_interleave": (True,),
}
DEFAULTS: dict[str, object] = {
    "attention_bias": False,
    "mlp_bias": False,
    "scoring_func": "softmax",
    "moe_layer_freq": 1,
    "rope_interleave": True,
}
TOPK_METHODS = {
    "greedy": "greedy",
    "gready": "greedy",  # as some published files spell it
    "group_limited_greedy": "group_limited_greedy",
}
_YARN_KEYS = {
    "type", "rope_type", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
    "original_max_position_embeddings", "rope_theta", "partial_rotary_factor",
}  # fmt: skip
_POSITIVE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "max_position_embeddings",
)  # fmt: skip

# (layers, hidden size, routed experts) -> the name it was published under.
PUBLISHED = {
    (27, 2048, 64): "DeepSeek-Coder-V2-Lite",
    (60, 5120, 160): "DeepSeek-Coder-V2",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
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

    @classmethod
    def load(cls, path: Path) -> ModelConfig:
        """Read config.json, or the one in a folder.

        Raises:
            ConfigError: the file is missing, malformed, or asks for what trtcoder cannot do.
        """
        path = path / "config.json" if path.is_dir() else path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: is missing; copy it from the model's repository") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: holds no JSON object")
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "config") -> ModelConfig:
        """Read the keys of ``data``; ``source`` names it in errors.

        Raises:
            ConfigError: names every key that is missing, unknown, of a wrong type, out of range
                or not supported.
        """
        reader = _Reader(data)
        config = reader.read()
        if reader.problems or config is None:
            raise ConfigError(f"{source}: {'; '.join(reader.problems)}")
        return config


class _Reader:
    """Reads keys once each and collects every problem."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.unread = set(data) - set(IGNORED)
        self.problems: list[str] = []

    def read(self) -> ModelConfig | None:
        self._check_fixed()
        if self.problems:  # another architecture: nothing below would mean much
            return None
        method = self._get("topk_method", str, "greedy")
        if method not in TOPK_METHODS:
            self.problems.append(f"topk_method {method!r} is not supported: {list(TOPK_METHODS)}")
        if self.data.get("quantization_config") is not None:
            self.problems.append(
                "quantization_config: quantized checkpoints are not supported; use the bf16 one"
            )
        self.unread.discard("quantization_config")
        theta, yarn = self._rope()
        values = {name: self._get(name, int) for name in _POSITIVE}
        config = ModelConfig(
            **values,
            moe_intermediate_size=self._get("moe_intermediate_size", int, 0),
            n_shared_experts=self._get("n_shared_experts", int, 0) or 0,
            n_routed_experts=self._get("n_routed_experts", int, 0) or 0,
            num_experts_per_tok=self._get("num_experts_per_tok", int, 0) or 0,
            n_group=self._get("n_group", int, 1) or 1,
            topk_group=self._get("topk_group", int, 1) or 1,
            topk_method=TOPK_METHODS.get(method, "greedy"),
            norm_topk_prob=self._get("norm_topk_prob", bool, False),
            routed_scaling_factor=self._get("routed_scaling_factor", float, 1.0),
            first_k_dense_replace=self._get("first_k_dense_replace", int, 0),
            q_lora_rank=self._get("q_lora_rank", int, None),
            rms_norm_eps=self._get("rms_norm_eps", float, 1e-6),
            rope_theta=theta,
            yarn=yarn,
            tie_word_embeddings=self._get("tie_word_embeddings", bool, False),
            bos_token_id=self._get("bos_token_id", int, None),
            eos_token_ids=self._eos(),
            raw=self.data,
        )
        if self.unread:
            self.problems.append(
                f"unknown {', '.join(sorted(self.unread))}; remove what does not matter"
            )
        if not self.problems:
            self.problems += _range_problems(config)
        return config

    def _check_fixed(self) -> None:
        for key, allowed in FIXED.items():
            self.unread.discard(key)
            value = self.data.get(key, DEFAULTS.get(key))
            if value not in allowed:
                shown = "nothing" if value is None else repr(value)
                self.problems.append(f"{key}: {shown} is not supported, only {allowed[0]!r}")

    def _get(self, key: str, kind: type, *default: Any) -> Any:
        self.unread.discard(key)
        if default and self.data.get(key) is None:
            return default[0]
        if key not in self.data:
            self.problems.append(f"{key} is missing")
            return kind()
        value = self.data[key]
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            self.problems.append(f"{key}: {value!r} is not of type {kind.__name__}")
            return kind()
        return kind(value)

    def _eos(self) -> tuple[int, ...]:
        self.unread.discard("eos_token_id")
        value = self.data.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(item) is int for item in ids):
            self.problems.append(f"eos_token_id: {value!r} is not a token id or a list of them")
            return ()
        return tuple(ids)

    def _rope(self) -> tuple[float, YarnScaling | None]:
        """Read rope_theta and rope_scaling, or the rope_parameters of transformers 5."""
        scaling = self.data.get("rope_scaling") or self.data.get("rope_parameters") or {}
        self.unread -= {"rope_scaling", "rope_parameters", "rope_theta"}
        if not isinstance(scaling, dict):
            self.problems.append(f"rope_scaling: {scaling!r} is not an object")
            return 0.0, None
        parameters = {**scaling}
        theta_here = self.data.get("rope_theta", parameters.get("rope_theta"))
        if parameters.get("rope_theta", theta_here) != theta_here:
            self.problems.append("rope_theta differs inside and outside of rope_scaling")
        if theta_here is not None:
            parameters["rope_theta"] = theta_here
        parameters.setdefault("rope_theta", 10000.0)
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        nested = _Reader(parameters)
        theta: float = nested._get("rope_theta", float)
        unknown = set(parameters) - _YARN_KEYS
        if unknown:
            self.problems.append(f"rope_scaling: unknown {', '.join(sorted(unknown))}")
        if parameters.get("partial_rotary_factor", 1) != 1:
            self.problems.append("rope_scaling: partial_rotary_factor is not supported, only 1")
        if kind == "default":
            self.problems += [f"rope_scaling: {problem}" for problem in nested.problems]
            return theta, None
        if kind != "yarn":
            self.problems.append(f"rope_scaling: type {kind!r} is not supported, only 'yarn'")
            return theta, None
        yarn = YarnScaling(
            factor=nested._get("factor", float),
            beta_fast=nested._get("beta_fast", float, 32.0),
            beta_slow=nested._get("beta_slow", float, 1.0),
            mscale=nested._get("mscale", float, 1.0),
            mscale_all_dim=nested._get("mscale_all_dim", float, 0.0),
            original_max_position_embeddings=nested._get("original_max_position_embeddings", int),
        )
        self.problems += [f"rope_scaling: {problem}" for problem in nested.problems]
        return theta, yarn


def _range_problems(config: ModelConfig) -> list[str]:
    """Return what contradicts itself."""
    problems = [f"{name} is {getattr(config, name)}, expected at least 1" for name in _POSITIVE
                if getattr(config, name) < 1]  # fmt: skip
    problems += _rope_problems(config)
    if not (math.isfinite(config.rms_norm_eps) and config.rms_norm_eps > 0):
        problems.append(f"rms_norm_eps is {config.rms_norm_eps}, expected a small positive number")
    if not math.isfinite(config.routed_scaling_factor):
        problems.append(f"routed_scaling_factor is {config.routed_scaling_factor}")
    for name in ("n_shared_experts", "n_routed_experts", "first_k_dense_replace"):
        if getattr(config, name) < 0:
            problems.append(f"{name} is {getattr(config, name)}, expected at least 0")
    for name, token in (
        ("bos_token_id", config.bos_token_id),
        *(("eos_token_id", token) for token in config.eos_token_ids),
    ):
        if token is not None and not 0 <= token < config.vocab_size:
            problems.append(f"{name} is {token}, outside the vocabulary of {config.vocab_size}")
    if config.qk_rope_head_dim % 2:
        problems.append(f"qk_rope_head_dim is {config.qk_rope_head_dim}, expected an even number")
    if config.q_lora_rank is not None and config.q_lora_rank < 1:
        problems.append(f"q_lora_rank is {config.q_lora_rank}, expected at least 1 or null")
    if not config.n_routed_experts:
        return problems
    experts, top_k = config.n_routed_experts, config.num_experts_per_tok
    for name in ("n_group", "topk_group"):
        if getattr(config, name) < 1:
            problems.append(f"{name} is {getattr(config, name)}, expected at least 1")
            return problems
    if config.moe_intermediate_size < 1:
        problems.append("moe_intermediate_size is missing")
    if not 1 <= top_k <= experts:
        problems.append(f"num_experts_per_tok is {top_k}, expected 1 to {experts}")
    if config.topk_method == "group_limited_greedy":
        groups, kept = config.n_group, config.topk_group
        if experts % groups:
            problems.append(f"n_group {groups} does not divide {experts} experts")
        elif not 1 <= kept <= groups:
            problems.append(f"topk_group is {kept}, expected 1 to {groups}")
        elif top_k > kept * (experts // groups):
            problems.append(f"num_experts_per_tok {top_k} exceeds {kept} groups' experts")
    return problems


def _rope_problems(config: ModelConfig) -> list[str]:
    """Return what YaRN's formulas cannot take."""
    problems = []
    if not (math.isfinite(config.rope_theta) and config.rope_theta > 1):
        problems.append(f"rope_theta is {config.rope_theta}, expected more than 1")
    if config.yarn is None:
        return problems
    for name in ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings"):
        value = getattr(config.yarn, name)
        if not (math.isfinite(value) and value > 0):
            problems.append(f"rope_scaling: {name} is {value}, expected a positive number")
    for name in ("mscale", "mscale_all_dim"):
        if not math.isfinite(getattr(config.yarn, name)):
            problems.append(f"rope_scaling: {name} is {getattr(config.yarn, name)}")
    return problems
