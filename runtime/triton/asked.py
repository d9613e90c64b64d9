"""What one request under the llmapi names asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtcoder.errors import RequestError
from trtcoder.refusals import parse_json
from trtcoder.runtime.constraints.constraint import Constraint
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.triton.tensor import Inputs

if TYPE_CHECKING:
    from trtcoder.prompting.prompts import Prompts

_LORA = ("lora_id", "lora_name", "lora_path", "lora_ckpt_source")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for answers.

    Attributes:
        request: for the engine.
        streaming: an answer goes out in parts.
        deltas: a part is the text since the last one; otherwise all of the text so far.
        before: text that goes before the answer's: the prompt, where it was asked for.
        finish_reason, stop_reason, cumulative_logprob, log_probs, input_tokens, output_tokens,
            metrics: what goes out beside the text.
    """

    request: Request
    streaming: bool = False
    deltas: bool = False
    before: str = ""
    finish_reason: bool = False
    stop_reason: bool = False
    cumulative_logprob: bool = False
    log_probs: bool = False
    input_tokens: bool = False
    output_tokens: bool = False
    metrics: bool = False

    @classmethod
    def read(
        cls, inputs: Inputs, prompts: Prompts, *, max_tokens: int, deltas: bool = False
    ) -> Asked:
        """Read a request's tensors.

        Args:
            inputs: the tensors.
            prompts: of the engine.
            max_tokens: most tokens of an answer, where the request gives no limit.
            deltas: what a part of a stream is, where the request does not say.

        Raises:
            RequestError: a tensor has a value that cannot be served; names the tensor.
        """
        _refuse_what_is_not_served(inputs)
        log_probs = inputs.flag("return_log_probs")
        cumulative = inputs.flag("return_cumulative_logprob")
        ids, spaced = _prompt(inputs, prompts)
        before = ""
        if not inputs.flag("sampling_param_exclude_input_from_output", default=True):
            before = (inputs.text("text_input") or "") if "text_input" in inputs else ""
        params = _params(
            inputs,
            max_tokens,
            prompts.format.tokens.eos,
            logprobs=0 if log_probs or cumulative else None,
        )
        return cls(
            Request(tuple(ids), params, strip_leading_space=spaced),
            streaming=inputs.flag("streaming"),
            deltas=inputs.flag("stream_deltas", deltas),
            before=before,
            finish_reason=inputs.flag("return_finish_reason"),
            stop_reason=inputs.flag("return_stop_reason"),
            cumulative_logprob=cumulative,
            log_probs=log_probs,
            input_tokens=inputs.flag("return_num_input_tokens"),
            output_tokens=inputs.flag("return_num_output_tokens"),
            metrics=inputs.flag("sampling_param_return_perf_metrics"),
        )


def _refuse_what_is_not_served(inputs: Inputs) -> None:
    if any(inputs.texts("image_url") or ()):
        raise RequestError("image_url: this model takes text; leave it out")
    for name in _LORA:
        if name in inputs:
            raise RequestError(f"{name}: engines have no adapters; leave the lora_ inputs out")
    if inputs.text("sampling_param_logits_post_processor_name"):
        raise RequestError(
            "sampling_param_logits_post_processor_name: there are none here; leave it out, or ask "
            "for a form with guided_decoding_guide"
        )
    best_of = inputs.whole("sampling_param_best_of")
    if best_of not in (None, 1):
        raise RequestError(
            f"sampling_param_best_of is {best_of}; it must be 1 (sampling_param_n gives several "
            "answers)"
        )


def _prompt(inputs: Inputs, prompts: Prompts) -> tuple[list[int], bool]:
    """Return the prompt, and whether a space that begins the answer is none of its text."""
    text, messages, suffix = (inputs.text(n) for n in ("text_input", "messages", "suffix"))
    if messages:
        if text or suffix:
            raise RequestError("messages: not together with text_input or suffix")
        remedy = 'send a list such as [{"role": "user", "content": "Hello"}]'
        listed = parse_json(messages, "messages", RequestError, remedy)
        if not isinstance(listed, list):
            raise RequestError(f"messages: expected a list, found {type(listed).__name__}")
        return prompts.chat(listed), prompts.spaced_answers
    if text is None:
        raise RequestError("text_input: is missing; send it, or messages for a chat")
    if suffix is not None:
        return prompts.fim(text, suffix), False
    return prompts.completion(text), False


def _params(
    inputs: Inputs, max_tokens: int, eos: tuple[int, ...], *, logprobs: int | None
) -> SamplingParams:
    asked = inputs.whole("sampling_param_max_tokens")
    if asked is None:
        asked = inputs.whole("max_tokens")
    ends, ignore_eos = _ends(inputs, eos)
    given: dict[str, Any] = {
        "max_tokens": max_tokens if asked is None else asked,
        # Zero tokens of the most likely ones are all of them, as -1 is for some clients.
        "top_k": max(0, top_k) if (top_k := _whole(inputs, "top_k")) is not None else None,
        "temperature": inputs.number("sampling_param_temperature"),
        "top_p": inputs.number("sampling_param_top_p"),
        "min_p": inputs.number("sampling_param_min_p"),
        "repetition_penalty": inputs.number("sampling_param_repetition_penalty"),
        "frequency_penalty": inputs.number("sampling_param_frequency_penalty"),
        "presence_penalty": inputs.number("sampling_param_presence_penalty"),
        "seed": _whole(inputs, "seed"),
        "n": _whole(inputs, "n"),
        "min_tokens": _whole(inputs, "min_tokens"),
        # A client that has none sends an empty one.
        "stop": [each for each in inputs.texts("sampling_param_stop") or () if each],
        "stop_token_ids": ends,
        "ignore_eos": ignore_eos,
        "logprobs": logprobs,
        "constraint": _form(inputs),
    }
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})


def _ends(inputs: Inputs, eos: tuple[int, ...]) -> tuple[list[int], bool]:
    """Return the tokens that end the answer, and whether the model's own do not."""
    ends = inputs.wholes("sampling_param_stop_token_ids") or []
    end = inputs.whole("end_id")
    if end is None or end in eos:
        return ends, inputs.flag("sampling_param_ignore_eos")
    return [*ends, *([end] if end >= 0 else [])], True


def _whole(inputs: Inputs, name: str) -> int | None:
    return inputs.whole(f"sampling_param_{name}")


def _form(inputs: Inputs) -> Constraint | None:
    """Return the form that the answer must have, by TensorRT-LLM's names of kinds."""
    kind = inputs.text("guided_decoding_guide_type")
    guide = inputs.text("guided_decoding_guide") or ""
    source = "guided_decoding_guide"
    match kind:
        case None | "":
            if guide:
                raise RequestError(f"{source}: needs guided_decoding_guide_type beside it")
            return None
        case "json":
            return Constraint.json_object(source)
        case "json_schema":
            return Constraint.json_schema(guide, lenient=True, source=source)
        case "regex":
            return Constraint.regex(guide, source)
        case "ebnf_grammar":
            return Constraint.gbnf(guide, source)
    raise RequestError(
        f"guided_decoding_guide_type is {kind!r}; it must be json, json_schema, regex or "
        "ebnf_grammar"
    )
