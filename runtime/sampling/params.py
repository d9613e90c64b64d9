"""What a request may ask of the sampler and of the end of its answer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.constraint import Constraint

T = TypeVar("T")
MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOPS = 32
# Beyond these, a penalty turns logits into infinities or an answer into noise.
PENALTIES = (0.01, 100.0)
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e6


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams` as keyword arguments."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    n: int
    max_tokens: int | None
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop: bool
    constraint: Constraint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen from the logits, and where the answer ends.

    What is None is the engine's default, from the checkpoint's generation_config.json, and where
    that says nothing the value in brackets.

    Attributes:
        temperature: 0 takes the most likely token; 1 samples the model's own distribution [0].
        top_k: keep the k most likely tokens; 0 keeps all [0].
        top_p: keep the smallest set of most likely tokens whose probabilities reach this sum [1].
        min_p: drop tokens less likely than this fraction of the most likely one [0].
        repetition_penalty: above 1 makes tokens of the prompt and of the answer less likely
            (Keskar et al. 2019, as in transformers' RepetitionPenaltyLogitsProcessor) [1].
        frequency_penalty: taken from a token's logit for each time it is in the answer (OpenAI).
        presence_penalty: taken once from the logit of each token in the answer (OpenAI).
        logit_bias: added to the logits of token ids, -100 to 100 (OpenAI).
        seed: same seed, same text; None draws one. Answer number i of ``n`` takes ``seed + i``.
        logprobs: report the log-probability of each token, and this many alternatives.
        prompt_logprobs: the same for the tokens of the prompt.
        n: answers to one prompt.
        max_tokens: most tokens to sample; None goes on to the end of the context.
        min_tokens: no end of sequence, stop token or stop string before so many tokens.
        stop: strings that end the answer; they are not part of it.
        stop_token_ids: token ids that end the answer; they are not part of its text.
        ignore_eos: go on behind an end-of-sequence token.
        include_stop: keep the stop string in the text.
        constraint: the form that the answer must have; None leaves it free.

    Raises:
        RequestError: a value out of range; names the parameter and its range.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        if self.temperature is not None and 0 < self.temperature < MIN_TEMPERATURE:
            raise RequestError(
                f"temperature is {self.temperature!r}; it must be 0 or at least {MIN_TEMPERATURE:g}"
            )
        _check("top_p", self.top_p, 0.0, 1.0, above_low=True)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, *PENALTIES)
        _check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_int("top_k", self.top_k, 0, 2**31 - 1)
        _check_int("seed", self.seed, 0, 2**64 - 1)
        _check_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _check_int("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        _check_int("n", self.n, 1, MAX_CHOICES, optional=False)
        _check_int("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _check_int("min_tokens", self.min_tokens, 0, 2**31 - 1, optional=False)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}; it must be at most max_tokens, {self.max_tokens}"
            )
        self._check_stops()
        self._check_bias()

    def resolved(self, defaults: SamplingParams) -> SamplingParams:
        """Return these parameters, with those of ``defaults`` where they are None."""
        neutral = SamplingParams(
            temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0
        )
        found = self
        for source in (defaults, neutral):
            found = dataclasses.replace(
                found,
                temperature=_first(found.temperature, source.temperature),
                top_k=_first(found.top_k, source.top_k),
                top_p=_first(found.top_p, source.top_p),
                min_p=_first(found.min_p, source.min_p),
                repetition_penalty=_first(found.repetition_penalty, source.repetition_penalty),
            )
        return found

    def _check_stops(self) -> None:
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, list | tuple) or not all(isinstance(s, str) for s in stops):
            raise RequestError(f"stop is {self.stop!r}; it must be a string or a list of strings")
        if "" in stops:
            raise RequestError("stop: an empty string would stop at once; leave it out")
        if len(stops) > MAX_STOPS:
            raise RequestError(f"stop has {len(stops)} strings; at most {MAX_STOPS} are taken")
        object.__setattr__(self, "stop", tuple(stops))
        ids = self.stop_token_ids
        if not isinstance(ids, list | tuple):
            raise RequestError(f"stop_token_ids is {ids!r}; it must be a list of token ids")
        for token in ids:
            _check_int("stop_token_ids", token, 0, 2**31 - 1, optional=False)
        object.__setattr__(self, "stop_token_ids", tuple(ids))

    def _check_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise RequestError("logit_bias: it must be an object from token ids to numbers")
        bias: dict[int, float] = {}
        for token, value in self.logit_bias.items():
            # JSON has no keys but strings.
            key = int(token) if isinstance(token, str) and token.isdecimal() else token
            _check_int("logit_bias: a token id", key, 0, 2**31 - 1, optional=False)
            _check(f"logit_bias[{key}]", value, -100.0, 100.0)
            bias[key] = float(value)
        object.__setattr__(self, "logit_bias", bias)


def _first(value: T | None, otherwise: T | None) -> T | None:
    return otherwise if value is None else value


def _check(name: str, value: object, low: float, high: float, *, above_low: bool = False) -> None:
    if value is None:
        return
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (low < value if above_low else low <= value)
        and value <= high
    ):
        return
    bounds = f"above {low:g}" if above_low else f"at least {low:g}"
    raise RequestError(f"{name} is {value!r}; it must be a number {bounds} and at most {high:g}")


def _check_int(name: str, value: object, low: int, high: int, *, optional: bool = True) -> None:
    if value is None and optional:
        return
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    raise RequestError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
