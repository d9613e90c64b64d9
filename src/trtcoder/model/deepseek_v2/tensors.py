"""The weight contract of DeepSeek-V2: every tensor that a checkpoint must have, with its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtcoder.model.architecture import Shapes

if TYPE_CHECKING:
    from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def expected_tensors(config: DeepseekV2Config) -> Shapes:
    """Return the name and shape of every tensor, in the model's order."""
    hidden, vocab = config.hidden_size, config.vocab_size
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config.num_hidden_layers):
        shapes |= _layer(config, layer)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _layer(config: DeepseekV2Config, layer: int) -> Shapes:
    hidden = config.hidden_size
    prefix = f"model.layers.{layer}"
    shapes: Shapes = {f"{prefix}.input_layernorm.weight": (hidden,)}
    shapes |= {f"{prefix}.self_attn.{name}": shape for name, shape in _attention(config).items()}
    shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    if not config.is_moe_layer(layer):
        return shapes | _mlp(f"{prefix}.mlp", hidden, config.intermediate_size)
    shapes[f"{prefix}.mlp.gate.weight"] = (config.n_routed_experts, hidden)
    for expert in range(config.n_routed_experts):
        shapes |= _mlp(f"{prefix}.mlp.experts.{expert}", hidden, config.moe_intermediate_size)
    if config.shared_intermediate_size:
        shapes |= _mlp(f"{prefix}.mlp.shared_experts", hidden, config.shared_intermediate_size)
    return shapes


def _attention(config: DeepseekV2Config) -> Shapes:
    hidden, heads = config.hidden_size, config.num_attention_heads
    queries, latent = heads * config.qk_head_dim, config.kv_lora_rank
    if config.q_lora_rank is None:
        shapes: Shapes = {"q_proj.weight": (queries, hidden)}
    else:
        shapes = {
            "q_a_proj.weight": (config.q_lora_rank, hidden),
            "q_a_layernorm.weight": (config.q_lora_rank,),
            "q_b_proj.weight": (queries, config.q_lora_rank),
        }
    return shapes | {
        "kv_a_proj_with_mqa.weight": (config.cache_width, hidden),
        "kv_a_layernorm.weight": (latent,),
        "kv_b_proj.weight": (heads * (config.qk_nope_head_dim + config.v_head_dim), latent),
        "o_proj.weight": (hidden, heads * config.v_head_dim),
    }


def _mlp(prefix: str, hidden: int, inner: int) -> Shapes:
    return {
        f"{prefix}.gate_proj.weight": (inner, hidden),
        f"{prefix}.up_proj.weight": (inner, hidden),
        f"{prefix}.down_proj.weight": (hidden, inner),
    }
