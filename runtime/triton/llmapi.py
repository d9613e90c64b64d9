"""The tensors of the model `tensorrt_llm`: NVIDIA's llmapi names, and what we add to them."""

from __future__ import annotations

from trtcoder.runtime.triton.tensor import Tensor

# Shape [-1]: clients send one prompt, or with `stop` an empty one.
UPSTREAM_INPUTS = (
    Tensor("text_input", "STRING", (-1,)),
    Tensor("image_url", "STRING", (-1,)),
    Tensor("streaming", "BOOL"),
    Tensor("sampling_param_best_of", "INT32"),
    Tensor("sampling_param_temperature", "FP32"),
    Tensor("sampling_param_top_k", "INT32"),
    Tensor("sampling_param_top_p", "FP32"),
    Tensor("sampling_param_frequency_penalty", "FP32"),
    Tensor("sampling_param_presence_penalty", "FP32"),
    Tensor("sampling_param_max_tokens", "INT32"),
    Tensor("sampling_param_stop", "STRING", (-1,)),
    Tensor("sampling_param_seed", "UINT64"),
    Tensor("sampling_param_exclude_input_from_output", "BOOL"),
    Tensor("sampling_param_return_perf_metrics", "BOOL"),
    Tensor("sampling_param_logits_post_processor_name", "STRING"),
    Tensor("return_finish_reason", "BOOL"),
    Tensor("return_stop_reason", "BOOL"),
    Tensor("return_cumulative_logprob", "BOOL"),
    Tensor("stop", "BOOL"),
    Tensor("lora_id", "UINT64"),
    Tensor("lora_name", "STRING"),
    Tensor("lora_path", "STRING"),
    Tensor("lora_ckpt_source", "STRING"),
)
_OUR_INPUTS = (
    # A chat, as JSON; or what is behind the hole that `text_input` is before.
    Tensor("messages", "STRING"),
    Tensor("suffix", "STRING"),
    # The text since the last response, in place of all of it.
    Tensor("stream_deltas", "BOOL"),
    # NVIDIA's page on llmapi writes it so.
    Tensor("max_tokens", "INT32"),
    Tensor("sampling_param_min_p", "FP32"),
    Tensor("sampling_param_repetition_penalty", "FP32"),
    Tensor("sampling_param_min_tokens", "INT32"),
    Tensor("sampling_param_n", "INT32"),
    Tensor("sampling_param_stop_token_ids", "INT32", (-1,)),
    Tensor("sampling_param_ignore_eos", "BOOL"),
    # The token that ends the answer in place of the model's own; -1 is none.
    Tensor("end_id", "INT32"),
    Tensor("guided_decoding_guide_type", "STRING"),
    Tensor("guided_decoding_guide", "STRING"),
    Tensor("return_log_probs", "BOOL"),
    Tensor("return_num_input_tokens", "BOOL"),
    Tensor("return_num_output_tokens", "BOOL"),
)
INPUTS = (*UPSTREAM_INPUTS, *_OUR_INPUTS)

# What goes with `sampling_param_return_perf_metrics`.
METRIC_OUTPUTS = (
    Tensor("kv_cache_reused_block", "INT32", (-1,)),
    Tensor("kv_cache_missed_block", "INT32", (-1,)),
    Tensor("kv_cache_alloc_new_blocks", "INT32", (-1,)),
    Tensor("kv_cache_alloc_total_blocks", "INT32", (-1,)),
    Tensor("kv_cache_hit_rate", "FP32", (-1,)),
    Tensor("arrival_time_ns", "INT64"),
    Tensor("first_scheduled_time_ns", "INT64"),
    Tensor("first_token_time_ns", "INT64"),
    Tensor("last_token_time_ns", "INT64"),
    Tensor("acceptance_rate", "FP32"),
    Tensor("total_accepted_draft_tokens", "INT32"),
    Tensor("total_draft_tokens", "INT32"),
)
UPSTREAM_OUTPUTS = (
    Tensor("text_output", "STRING", (-1,)),
    Tensor("finish_reason", "STRING", (-1,)),
    Tensor("stop_reason", "STRING", (-1,)),
    Tensor("cumulative_logprob", "FP32", (-1,)),
    *METRIC_OUTPUTS,
)
OUTPUTS = (
    *UPSTREAM_OUTPUTS,
    Tensor("output_log_probs", "FP32", (-1, -1)),
    Tensor("num_input_tokens", "INT32"),
    Tensor("num_output_tokens", "INT32"),
)
OUTPUT = {each.name: each for each in OUTPUTS}
