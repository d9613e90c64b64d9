"""The bodies of llama-server's own endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.constraint import Constraint
from trtcoder.runtime.sampling.params import MAX_LOGPROBS, SamplingParams
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.options import FimOptions
from trtcoder.runtime.server.service import Service


class Extra(BaseModel):
    """A piece of another file."""

    model_config = ConfigDict(extra="ignore", strict=True)

    text: str
    filename: str = ""


class LlamaFields(BaseModel):
    """What llama-server's own endpoints take; keys that change nothing here are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    n_predict: int = Field(-1, validation_alias=AliasChoices("n_predict", "max_tokens"))
    n_cmpl: int = Field(1, validation_alias=AliasChoices("n_cmpl", "n"))
    stream: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    ignore_eos: bool = False
    # Pairs of a token, or a text, and what is added to its logits.
    logit_bias: list[list[int | str | float | bool]] | dict[str, float | bool] | None = None
    n_probs: int = 0
    n_indent: int = 0
    t_max_predict_ms: int = 0
    response_fields: list[str] | None = None
    return_tokens: bool = False
    return_progress: bool = False
    timings_per_token: bool = False
    cache_prompt: bool = True
    id_slot: int = -1
    grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    trtcoder: FimOptions | None = None
    # They would change how tokens are chosen, or what is told of them.
    mirostat: int = 0
    dry_multiplier: float = 0.0
    dynatemp_range: float = 0.0
    xtc_probability: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    post_sampling_probs: bool = False

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            RequestError: names the parameter.
        """
        for name, is_off in (
            ("mirostat", self.mirostat == 0),
            ("dry_multiplier", self.dry_multiplier == 0),
            ("dynatemp_range", self.dynatemp_range == 0),
            ("xtc_probability", self.xtc_probability == 0),
            ("typical_p", self.typical_p >= 1),
            ("top_n_sigma", self.top_n_sigma <= 0),
            ("post_sampling_probs", not self.post_sampling_probs),
        ):
            if not is_off:
                raise RequestError(f"{name}: it is not supported; leave it out")

    def params(self, service: Service, served: Served) -> SamplingParams:
        """Return the sampler's parameters.

        Raises:
            RequestError: a value out of range, or a key that is not served.
        """
        self.check()
        # -1 and -2 are llama-server's words for no limit, 0 asks for the prompt only.
        limit = None if self.n_predict < 0 else max(self.n_predict, 1)
        given: dict[str, Any] = {
            "max_tokens": service.limit(served, limit),
            "n": self.n_cmpl,
            "temperature": None if self.temperature is None else max(self.temperature, 0.0),
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": None if self.seed is None or self.seed < 0 else self.seed,
            "stop": [self.stop] if isinstance(self.stop, str) else self._stops(),
            "ignore_eos": self.ignore_eos,
            "logit_bias": self._bias(served),
            "constraint": self.form(),
            "logprobs": min(self.n_probs, MAX_LOGPROBS) if self.n_probs > 0 else None,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})

    def form(self) -> Constraint | None:
        """Return the form that the answer must have.

        Raises:
            RequestError: two forms, or a schema that is malformed.
        """
        if self.json_schema is not None:
            if self.grammar:
                raise RequestError("grammar: not together with json_schema")
            return Constraint.json_schema(self.json_schema, lenient=True, source="json_schema")
        return Constraint.gbnf(self.grammar, "grammar") if self.grammar else None

    def _stops(self) -> list[str]:
        return [stop for stop in self.stop or () if stop]

    def _bias(self, served: Served) -> dict[int, float] | None:
        """Return the bias by token id; false forbids, and text stands for its tokens."""
        if self.logit_bias is None:
            return None
        pairs: Sequence[Sequence[Any]] = (
            list(self.logit_bias.items()) if isinstance(self.logit_bias, dict) else self.logit_bias
        )
        found: dict[int, float] = {}
        for pair in pairs:
            if len(pair) != 2 or isinstance(pair[0], bool | float) or isinstance(pair[1], str):
                raise RequestError(f"logit_bias: {pair!r} is no pair of a token and a number")
            key, value = pair
            amount = -100.0 if value is False else float(value)
            is_id = isinstance(key, int) or key.isdecimal()
            for token in [int(key)] if is_id else served.llm.tokenizer.encode(str(key)):
                found[token] = amount
        return found


class InfillRequest(LlamaFields):
    """A hole; ``prompt`` is what of the middle is there, ``input_extra`` pieces of other files."""

    input_prefix: str
    input_suffix: str
    input_extra: list[Extra] = []
    prompt: str = ""


class PromptObject(BaseModel):
    """A prompt as an object, which could hold pictures elsewhere."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt_string: str


class CompletionRequest(LlamaFields):
    """A prompt as text, token ids, or both in a row; or a list of prompts."""

    prompt: str | PromptObject | list[int | str | PromptObject | list[int | str]]

    def prompts(self) -> list[str | list[int | str]]:
        """Return the prompts. A list is one where it has a token id, and several otherwise."""
        listed = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if not any(isinstance(part, int) for part in listed):
            return [
                each.prompt_string if isinstance(each, PromptObject) else each
                for each in listed
                if not isinstance(each, int)
            ]
        parts = [part for part in listed if isinstance(part, int | str)]
        if len(parts) < len(listed):
            raise RequestError("prompt: token ids and prompts do not stand in one list")
        return [parts]
