"""The keys of config.json that are not used: which are ignored, and which may say one thing only.

A key that is in neither table, and that `config_reader` does not read, is refused by name.
"""

from __future__ import annotations

# Keys that do not change what the model computes at inference, whatever they say.
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
    "torch_dtype": "the shards' own types are read",
    "transformers_version": "what wrote the file",
    "use_cache": "the engine always has one",
}
_SAME_REASON = {
    "training only": (
        "router_aux_loss_coef", "router_jitter_noise", "hidden_dropout", "hidden_dropout_prob",
        "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "classifier_dropout",
        "gradient_checkpointing", "z_loss_coef", "label_smoothing", "max_window_layers",
        "neftune_noise_alpha",
    ),
    "a mark of the tool that trained or saved it": (
        "unsloth_version", "unsloth_fixed", "axolotl_version", "autoround_version", "model_name",
        "_commit_hash", "_from_model_config", "_unsloth_zoo_version", "llamafactory_version",
        "transformers.js_config", "language", "license", "tags",
    ),
    "how transformers runs the model": (
        "_attn_implementation", "attn_implementation", "_attn_implementation_internal",
        "_attn_implementation_autoset", "_experts_implementation", "experts_implementation",
        "_experts_implementation_internal", "_flash_attn_2_enabled", "use_flash_attention",
        "use_flash_attn", "return_dict", "output_attentions", "output_hidden_states",
        "torchscript", "use_bfloat16", "chunk_size_feed_forward", "trust_remote_code",
        "keys_to_ignore_at_inference", "base_model_tp_plan", "base_model_pp_plan",
        "base_model_ep_plan", "tp_plan", "tf_legacy_loss", "use_return_dict", "custom_pipelines",
    ),
    "the tokenizer's own files say it": (
        "tokenizer_class", "chat_template", "model_max_length", "padding_side", "unk_token_id",
        "sep_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id",
        "add_bos_token", "add_eos_token",
    ),
    "generation_config.json says it": (
        "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample",
        "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature",
        "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty",
        "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
        "num_return_sequences", "output_scores", "return_dict_in_generate",
        "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
        "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
        "pad_token", "bos_token", "eos_token", "generation_config",
    ),
    "for classification": (
        "finetuning_task", "id2label", "label2id", "num_labels", "problem_type",
        "task_specific_params", "prefix",
    ),
}  # fmt: skip
IGNORED |= {key: reason for reason, keys in _SAME_REASON.items() for key in keys}

# Keys with the values that trtcoder can do; without None the key is required.
FIXED: dict[str, tuple[object, ...]] = {
    "model_type": ("deepseek_v2",),
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "scoring_func": ("softmax", None),
    "moe_layer_freq": (1, None),
    "rope_interleave": (True, None),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
    "attention_chunk_size": (None,),
    "num_nextn_predict_layers": (0, None),
    "is_encoder_decoder": (False, None),
    "is_decoder": (False, True, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "partial_rotary_factor": (1, None),
    "logits_scaling": (1, None),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "quantization_config": (None,),
    "compression_config": (None,),
}
# Keys of one reason for a refusal each.
REFUSALS = {
    "quantization_config": "quantized checkpoints are not supported; use the bf16 one",
    "compression_config": "quantized checkpoints are not supported; use the bf16 one",
}
TOPK_METHODS = {
    "greedy": "greedy",
    "gready": "greedy",  # as some published files spell it
    "group_limited_greedy": "group_limited_greedy",
}
ROPE_KEYS = {
    "type", "rope_type", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
    "original_max_position_embeddings", "rope_theta",
}  # fmt: skip
# Rotary keys with the values that trtcoder can do.
FIXED_ROPE: dict[str, tuple[object, ...]] = {
    "partial_rotary_factor": (1, None),
    "attention_factor": (None,),
    "truncate": (True, None),
    "finetuned": (True, False, None),
}

# The least and the most that a size may be. Published models are far below the most, which keeps
# a file with a slip of the pen from taking hours or all memory to be refused.
_WIDTH = 1 << 20
SIZES: dict[str, tuple[int, int]] = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, _WIDTH),
    "intermediate_size": (1, _WIDTH),
    "num_hidden_layers": (1, 4096),
    "num_attention_heads": (1, 1 << 14),
    "kv_lora_rank": (1, _WIDTH),
    "qk_nope_head_dim": (1, 1 << 14),
    "qk_rope_head_dim": (1, 1 << 14),
    "v_head_dim": (1, 1 << 14),
    "max_position_embeddings": (1, 1 << 30),
}
MOE_SIZES: dict[str, tuple[int, int]] = {
    "moe_intermediate_size": (0, _WIDTH),
    "n_shared_experts": (0, 1024),
    "n_routed_experts": (0, 1 << 14),
    "first_k_dense_replace": (0, 1 << 30),
}
# Experts of all layers together: 236B has 9,440.
MOST_EXPERTS = 200_000
