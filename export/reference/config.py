"""transformers' configuration, made from validated values alone.

The file's own keys would reach code that checks them otherwise: an integer where it wants a float,
or a key that we ignore, would fail there, after the whole conversion.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trtcoder.errors import ConfigError
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def transformers_config(modules: Any, config: DeepseekV2Config, source: str) -> Any:
    """Return ``config`` as an instance of ``modules.DeepseekV2Config``; ``source`` names it.

    Raises:
        ConfigError: transformers refuses the values.
    """
    try:
        found = modules.DeepseekV2Config(**_values(config))
    except Exception as error:  # transformers validates in many ways
        # The class of each nested error and its text stand on lines of their own.
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{source}: transformers, the reference, does not take this configuration: {reason}"
        ) from error
    found._attn_implementation = "eager"
    found._experts_implementation = "eager"
    return found


def _values(config: DeepseekV2Config) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.yarn is not None:
        rope |= {"rope_type": "yarn", **dataclasses.asdict(config.yarn)}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "moe_intermediate_size": config.moe_intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_attention_heads,
        "n_shared_experts": config.n_shared_experts,
        "n_routed_experts": config.n_routed_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "topk_method": config.topk_method,
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
        # Without routed experts the published code builds dense layers only.
        "first_k_dense_replace": (
            config.first_k_dense_replace if config.n_routed_experts else config.num_hidden_layers
        ),
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": rope,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": None,
    }
