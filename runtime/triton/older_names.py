"""The names that clients of NVIDIA's older layout send, over the same engine.

Every optional input is declared, since clients send some of them always; what is not served is
refused by its value. Tensors have a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from trtcoder.errors import RequestError
from trtcoder.runtime.triton.llmapi import OUTPUTS as ENGINE_OUTPUTS
from trtcoder.runtime.triton.reply import Outputs
from trtcoder.runtime.triton.tensor import Inputs, Tensor
from trtcoder.runtime.triton.thin_model import ThinModel

MODELS = ("ensemble", "tensorrt_llm_bls")
INPUTS = (
    Tensor("text_input", "STRING", optional=False),
    Tensor("max_tokens", "INT32", optional=False),
    Tensor("suffix", "STRING"),
    Tensor("messages", "STRING"),
    Tensor("stop_words", "STRING", (-1,)),
    Tensor("bad_words", "STRING", (-1,)),
    Tensor("guided_decoding_guide_type", "STRING"),
    Tensor("guided_decoding_guide", "STRING"),
    Tensor("end_id", "INT32"),
    Tensor("pad_id", "INT32"),
    Tensor("top_k", "INT32"),
    Tensor("min_tokens", "INT32"),
    Tensor("beam_width", "INT32"),
    Tensor("num_return_sequences", "INT32"),
    Tensor("top_p", "FP32"),
    Tensor("temperature", "FP32"),
    Tensor("length_penalty", "FP32"),
    Tensor("repetition_penalty", "FP32"),
    Tensor("presence_penalty", "FP32"),
    Tensor("frequency_penalty", "FP32"),
    Tensor("seed", "UINT64"),
    Tensor("stream", "BOOL"),
    Tensor("exclude_input_in_output", "BOOL"),
    Tensor("return_log_probs", "BOOL"),
    Tensor("return_context_logits", "BOOL"),
    Tensor("return_generation_logits", "BOOL"),
    Tensor("return_perf_metrics", "BOOL"),
    Tensor("return_num_input_tokens", "BOOL"),
    Tensor("return_num_output_tokens", "BOOL"),
)
# Older name -> the engine's, of inputs that mean the same.
_SAME = {
    "text_input": "text_input",
    "suffix": "suffix",
    "messages": "messages",
    "max_tokens": "sampling_param_max_tokens",
    "stop_words": "sampling_param_stop",
    "guided_decoding_guide_type": "guided_decoding_guide_type",
    "guided_decoding_guide": "guided_decoding_guide",
    "end_id": "end_id",
    "top_k": "sampling_param_top_k",
    "min_tokens": "sampling_param_min_tokens",
    "top_p": "sampling_param_top_p",
    "temperature": "sampling_param_temperature",
    "repetition_penalty": "sampling_param_repetition_penalty",
    "presence_penalty": "sampling_param_presence_penalty",
    "frequency_penalty": "sampling_param_frequency_penalty",
    "seed": "sampling_param_seed",
    "stream": "streaming",
    "exclude_input_in_output": "sampling_param_exclude_input_from_output",
    "return_log_probs": "return_log_probs",
    "return_perf_metrics": "sampling_param_return_perf_metrics",
    "return_num_input_tokens": "return_num_input_tokens",
    "return_num_output_tokens": "return_num_output_tokens",
}
# The engine's name -> the older one, where they differ.
_OUTPUT_NAMES = {
    "cumulative_logprob": "cum_log_probs",
    "kv_cache_reused_block": "kv_cache_reused_blocks",
}
_NOT_GIVEN = ("finish_reason", "stop_reason", "kv_cache_missed_block", "kv_cache_hit_rate")
_ONE = (Tensor("sequence_index", "INT32"), Tensor("batch_index", "INT32"))
OUTPUTS = (
    *(
        Tensor(_OUTPUT_NAMES.get(each.name, each.name), each.kind, each.dims)
        for each in ENGINE_OUTPUTS
        if each.name not in _NOT_GIVEN
    ),
    *_ONE,
)


class OlderNamesModel(ThinModel):
    """Translates a request of older names, and its responses."""

    engine_outputs = tuple(each.name for each in ENGINE_OUTPUTS if each.name not in _NOT_GIVEN)

    def to_engine(self, inputs: Inputs) -> Mapping[str, NDArray[Any]]:
        """Return the tensors for the engine.

        Raises:
            RequestError: a value that is not served; names the tensor.
        """
        _refuse_what_is_not_served(inputs)
        found = {
            ours: inputs.tensors[theirs].reshape(-1)
            for theirs, ours in _SAME.items()
            if theirs in inputs
        }
        flag = Tensor("", "BOOL").array([True])
        if inputs.flag("return_log_probs"):
            found["return_cumulative_logprob"] = flag
        if inputs.text("messages"):
            # It is required here, and a chat has none.
            found["text_input"] = Tensor("", "STRING").array([""])
        if "top_k" not in inputs and "top_p" not in inputs:
            # TensorRT-LLM's top-k is 1 then, and its client sends a temperature all the same.
            found["sampling_param_temperature"] = Tensor("", "FP32").array([0.0])
        return {**found, "stream_deltas": flag}

    def from_engine(self, outputs: Outputs) -> Outputs:
        """Return the tensors for the client; but for the text, a batch goes before."""
        found = {
            _OUTPUT_NAMES.get(name, name): array if name == "text_output" else array[None]
            for name, array in outputs.items()
        }
        return found | {each.name: each.array([0], (1, 1)) for each in _ONE}


def _refuse_what_is_not_served(inputs: Inputs) -> None:
    for name in ("beam_width", "num_return_sequences"):
        value = inputs.whole(name)
        if value not in (None, 1):
            raise RequestError(f"{name} is {value}; it must be 1")
    if any(inputs.texts("bad_words") or ()):
        raise RequestError("bad_words: are not served; leave them out")
    for name in ("return_context_logits", "return_generation_logits"):
        if inputs.flag(name):
            raise RequestError(f"{name}: logits are not given out; return_log_probs is served")
