"""What a request may ask of the sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trtcoder.errors import RequestError

MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen from the logits; the defaults are greedy.

    Attributes:
        temperature: 0 takes the most likely token; 1 samples the model's own distribution.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens whose probabilities reach this sum.
        min_p: drop tokens less likely than this fraction of the most likely one.
        repetition_penalty: above 1 makes tokens of the prompt and of the answer less likely
            (Keskar et al. 2019, as in transformers' RepetitionPenaltyLogitsProcessor).
        frequency_penalty: taken from a token's logit for each time it is in the answer (OpenAI).
        presence_penalty: taken once from the logit of each token in the answer (OpenAI).
        seed: same seed, same text; None draws one.
        logprobs: report the log-probability of the token, and this many alternatives.

    Raises:
        RequestError: a value out of range; names the parameter and its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, math.inf)
        _check("top_p", self.top_p, 0.0, 1.0, above_low=True)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 0.0, math.inf, above_low=True)
        _check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_int("top_k", self.top_k, 0, None)
        _check_int("seed", self.seed, 0, 2**64 - 1)
        _check_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)

    @property
    def has_penalties(self) -> bool:
        """Whether any penalty changes the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )


def _check(name: str, value: object, low: float, high: float, *, above_low: bool = False) -> None:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (low < value if above_low else low <= value)
        and value <= high
    ):
        return
    bounds = f"above {low:g}" if above_low else f"at least {low:g}"
    if high < math.inf:
        bounds += f" and at most {high:g}"
    raise RequestError(f"{name} is {value!r}; it must be a number {bounds}")


def _check_int(name: str, value: object, low: int, high: int | None) -> None:
    if value is None and name != "top_k":
        return
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= low
        and (high is None or value <= high)
    ):
        return
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise RequestError(f"{name} is {value!r}; it must be a whole number {bounds}")
