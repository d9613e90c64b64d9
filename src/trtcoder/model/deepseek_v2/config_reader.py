"""Reads the keys of config.json into a `DeepseekV2Config`, and says all that is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.model.deepseek_v2.config_keys import (
    FIXED,
    FIXED_ROPE,
    IGNORED,
    MOE_SIZES,
    MOST_EXPERTS,
    REFUSALS,
    ROPE_KEYS,
    SIZES,
    TOPK_METHODS,
)
from trtcoder.model.deepseek_v2.yarn import YarnScaling

_SHOWN_CHARACTERS = 60


class ConfigReader:
    """Reads keys once each and collects every problem."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.unread = {str(key) for key in data} - set(IGNORED)
        self.problems: list[str] = []

    def read(self) -> DeepseekV2Config | None:
        """Return the configuration, or None with `problems`."""
        self._check_fixed(FIXED)
        if self.problems:  # another architecture: nothing below would mean much
            return None
        method = self._get("topk_method", str, "greedy")
        if method not in TOPK_METHODS:
            self.problems.append(f"topk_method {method!r} is not supported: {list(TOPK_METHODS)}")
        theta, yarn = self._rotary()
        values = {name: self._get(name, int) for name in SIZES}
        values |= {name: self._get(name, int, 0) for name in MOE_SIZES}
        config = DeepseekV2Config(
            **values,
            num_experts_per_tok=self._get("num_experts_per_tok", int, 0),
            n_group=self._get("n_group", int, 1) or 1,
            topk_group=self._get("topk_group", int, 1) or 1,
            topk_method=TOPK_METHODS.get(method, "greedy"),
            norm_topk_prob=self._get("norm_topk_prob", bool, False),
            routed_scaling_factor=self._get("routed_scaling_factor", float, 1.0),
            q_lora_rank=self._get("q_lora_rank", int, None),
            rms_norm_eps=self._get("rms_norm_eps", float, 1e-6),
            rope_theta=theta,
            yarn=yarn,
            tie_word_embeddings=self._get("tie_word_embeddings", bool, False),
            bos_token_id=self._get("bos_token_id", int, None),
            eos_token_ids=self._end_tokens(),
            raw=self.data,
        )
        # What other names and derived sizes say must be the same.
        self._check_equal("qk_head_dim", config.qk_head_dim)
        for name in ("num_experts", "num_local_experts"):
            self._check_equal(name, config.n_routed_experts)
        self._check_layer_types()
        if self.unread:
            self.problems.append(
                f"unknown {', '.join(sorted(self.unread))}; remove what does not matter"
            )
        if not self.problems:
            self.problems += range_problems(config)
        return config

    def _check_fixed(self, fixed: Mapping[str, tuple[object, ...]]) -> None:
        for key, allowed in fixed.items():
            self.unread.discard(key)
            value = self.data.get(key)
            if value in allowed:
                continue
            if key in REFUSALS:
                self.problems.append(f"{key}: {REFUSALS[key]}")
                continue
            shown = "nothing" if value is None else _shown(value)
            self.problems.append(f"{key}: {shown} is not supported, only {allowed[0]!r}")

    def _check_equal(self, key: str, expected: int) -> None:
        if key in self.data and self._get(key, int, expected) != expected:
            self.problems.append(
                f"{key} is {_shown(self.data[key])}, the other sizes give {expected}"
            )

    def _check_layer_types(self) -> None:
        self.unread.discard("layer_types")
        kinds = self.data.get("layer_types")
        if kinds is not None and (
            not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
        ):
            self.problems.append("layer_types: only 'full_attention' is supported in every layer")

    def _get(self, key: str, kind: type, *default: Any) -> Any:
        self.unread.discard(key)
        value = self.data.get(key)
        if default and value is None:
            return default[0]
        if key not in self.data:
            self.problems.append(f"{key} is missing")
            return kind()
        if isinstance(value, bool) == (kind is bool):
            if isinstance(value, kind):
                return value
            if kind is float and isinstance(value, int) and abs(value) < 1 << 1000:
                return float(value)
            # Some tools write every number with a point.
            if kind is int and isinstance(value, float) and value.is_integer():
                return int(value)
        self.problems.append(f"{key}: {_shown(value)} is not of type {kind.__name__}")
        return kind()

    def _end_tokens(self) -> tuple[int, ...]:
        self.unread.discard("eos_token_id")
        value = self.data.get("eos_token_id")
        listed = value if isinstance(value, list) else [] if value is None else [value]
        reader = ConfigReader({str(index): token for index, token in enumerate(listed)})
        ids = tuple(reader._get(str(index), int) for index in range(len(listed)))
        if reader.problems:
            self.problems.append(
                f"eos_token_id: {_shown(value)} is not a token id or a list of them"
            )
        return ids

    def _rotary(self) -> tuple[float, YarnScaling | None]:
        """Read rope_theta and rope_scaling, or the rope_parameters of transformers 5."""
        self.unread -= {"rope_scaling", "rope_parameters", "rope_theta"}
        given = {
            name: self.data[name]
            for name in ("rope_scaling", "rope_parameters")
            if self.data.get(name) not in (None, {})
        }
        for name, value in given.items():
            if not isinstance(value, dict):
                self.problems.append(f"{name}: {_shown(value)} is not an object")
                return 0.0, None
        found = [self._rope(name, value) for name, value in given.items()]
        if len(found) == 2 and found[0] != found[1]:
            self.problems.append("rope_scaling and rope_parameters differ; remove one of them")
        return found[0] if found else self._rope("rope_scaling", {})

    def _rope(self, name: str, given: Mapping[str, Any]) -> tuple[float, YarnScaling | None]:
        inside, outside = given.get("rope_theta"), self.data.get("rope_theta")
        if inside is not None and outside not in (None, inside):
            self.problems.append(f"rope_theta differs inside and outside of {name}")
        theta = outside if inside is None else inside
        reader = ConfigReader({**given, "rope_theta": 10000.0 if theta is None else theta})
        found = reader._yarn()
        self.problems += [f"{name}: {problem}" for problem in reader.problems]
        return found

    def _yarn(self) -> tuple[float, YarnScaling | None]:
        self._check_fixed(FIXED_ROPE)
        unknown = self.unread - ROPE_KEYS
        if unknown:
            self.problems.append(f"unknown {', '.join(sorted(unknown))}")
        theta: float = self._get("rope_theta", float)
        kinds = [kind for key in ("rope_type", "type") if (kind := self.data.get(key)) is not None]
        if all(kind == "default" for kind in kinds):
            return theta, None
        if any(kind != "yarn" for kind in kinds):
            shown = " and ".join(map(_shown, kinds))
            self.problems.append(f"type {shown} is not supported, only 'yarn'")
            return theta, None
        yarn = YarnScaling(
            factor=self._get("factor", float),
            beta_fast=self._get("beta_fast", float, 32.0),
            beta_slow=self._get("beta_slow", float, 1.0),
            mscale=self._get("mscale", float, 1.0),
            mscale_all_dim=self._get("mscale_all_dim", float, 0.0),
            original_max_position_embeddings=self._get("original_max_position_embeddings", int),
        )
        return theta, yarn


def range_problems(config: DeepseekV2Config) -> list[str]:
    """Return what is out of range or contradicts itself."""
    problems = []
    for name, (least, most) in {**SIZES, **MOE_SIZES}.items():
        value = getattr(config, name)
        if value < least:
            problems.append(f"{name} is {_shown(value)}, expected at least {least}")
        elif value > most:
            problems.append(f"{name} is {_shown(value)}, expected at most {most:,}")
    if config.n_routed_experts * config.num_hidden_layers > MOST_EXPERTS:
        problems.append(
            f"n_routed_experts in num_hidden_layers are {_shown(config.n_routed_experts)} in "
            f"{_shown(config.num_hidden_layers)}, expected at most {MOST_EXPERTS:,} in all"
        )
    problems += _rope_problems(config)
    if not (math.isfinite(config.rms_norm_eps) and config.rms_norm_eps > 0):
        problems.append(f"rms_norm_eps is {config.rms_norm_eps}, expected a small positive number")
    if not math.isfinite(config.routed_scaling_factor):
        problems.append(f"routed_scaling_factor is {config.routed_scaling_factor}")
    for name, token in (
        ("bos_token_id", config.bos_token_id),
        *(("eos_token_id", token) for token in config.eos_token_ids),
    ):
        if token is not None and not 0 <= token < config.vocab_size:
            problems.append(
                f"{name} is {_shown(token)}, outside the vocabulary of {config.vocab_size}"
            )
    if config.qk_rope_head_dim % 2:
        problems.append(f"qk_rope_head_dim is {config.qk_rope_head_dim}, expected an even number")
    rank = config.q_lora_rank
    if rank is not None and not 1 <= rank <= SIZES["kv_lora_rank"][1]:
        problems.append(f"q_lora_rank is {_shown(rank)}, expected at least 1 or null")
    return problems if problems or not config.n_routed_experts else _routing_problems(config)


def _routing_problems(config: DeepseekV2Config) -> list[str]:
    experts, top_k = config.n_routed_experts, config.num_experts_per_tok
    problems = [
        f"{name} is {getattr(config, name)}, expected at least 1"
        for name in ("n_group", "topk_group")
        if getattr(config, name) < 1
    ]
    if problems:
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


def _rope_problems(config: DeepseekV2Config) -> list[str]:
    """Return what YaRN's formulas cannot take."""
    problems = []
    if not (math.isfinite(config.rope_theta) and config.rope_theta > 1):
        problems.append(f"rope_theta is {config.rope_theta}, expected more than 1")
    if config.yarn is None:
        return problems
    for name in ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings"):
        value = getattr(config.yarn, name)
        if not 0 < value < 1 << 40:
            problems.append(f"rope_scaling: {name} is {_shown(value)}, expected a positive number")
    for name in ("mscale", "mscale_all_dim"):
        if not math.isfinite(getattr(config.yarn, name)):
            problems.append(f"rope_scaling: {name} is {getattr(config.yarn, name)}")
    return problems


def _shown(value: object) -> str:
    """Return a value for an error, which stays one line; an integer may have any length."""
    if isinstance(value, int) and abs(value) > 1 << 100:
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
