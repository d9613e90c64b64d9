"""From one row of logits to one token.

The order is: bias, repetition penalty, frequency and presence penalties, what the constraint
allows, temperature, top-k, top-p, min-p, then one draw. Each of the three filters sees the
distribution that the one before it left, renormalised, as in transformers' logits processors. Ties
fall to the lower token id.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import EngineError
from trtcoder.runtime.constraints.matcher import Matcher
from trtcoder.runtime.sampling.candidates import draw, keep_nucleus, largest, log_sum_exp
from trtcoder.runtime.sampling.params import SamplingParams

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """A chosen token; log-probabilities (natural, of the unmodified logits) where asked for."""

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer and keeps the counts that the penalties need."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        vocab_size: int,
        *,
        answer: int = 0,
        ends: Iterable[int] = (),
        matcher: Matcher | None = None,
    ) -> None:
        """Start an answer.

        Args:
            params: with a value for each parameter (see `SamplingParams.resolved`).
            prompt_ids: the prompt.
            vocab_size: logits of a row.
            answer: its number among those to one prompt.
            ends: token ids that are not chosen before ``params.min_tokens``.
            matcher: says which tokens may follow, where the answer has a constraint.
        """
        self.params = params
        # A drawn seed is kept, so that any answer can be had again.
        seed = secrets.randbits(53) if params.seed is None else params.seed
        self.seed = (seed + answer) % 2**64
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._temperature = params.temperature or 0.0
        self._top_k, self._top_p = params.top_k or 0, 1.0 if params.top_p is None else params.top_p
        self._min_p = params.min_p or 0.0
        self._adjust = _Adjustments(params, prompt_ids, vocab_size)
        self._ends = np.array(sorted({end for end in ends if end < vocab_size}), np.int64)
        self._count = 0
        self._matcher = matcher
        self._changes = self._adjust.active or params.min_tokens > 0 or matcher is not None
        self._takes_best = not (self._changes or self._temperature or params.logprobs is not None)

    @property
    def is_over(self) -> bool:
        """Whether the constraint lets nothing follow."""
        return self._matcher is not None and self._matcher.is_over

    def fitting(self, draft: list[int]) -> list[int]:
        """Return the beginning of a draft that the constraint allows."""
        return draft if self._matcher is None else draft[: self._matcher.fitting(draft)]

    def sample(
        self, logits: Logits, allowed: NDArray[np.int64] | None = None, best: int | None = None
    ) -> Sample:
        """Choose the next token from ``logits``, float32 [vocab], which may be changed.

        Only ``allowed`` ids are chosen, where they are given. ``best`` is what `best_of` found in
        the logits, where somebody has looked already.

        Raises:
            EngineError: the logits hold NaN or no finite value, or no id is allowed.
            RequestError: the answer cannot be held to its constraint.
        """
        if best is None:
            (best,) = best_of(logits[None])
        if self._takes_best and allowed is None:
            self._count += 1
            return Sample(best)
        wanted = self.params.logprobs
        report = None
        if wanted is not None:
            changes = self._changes or allowed is not None
            report = Report.of(logits.copy() if changes else logits, wanted)
        if allowed is not None:
            keep_allowed(logits, allowed)
            best = -1
        if self._adjust.active:
            self._adjust.apply(logits)
            best = -1
        if self._count < self.params.min_tokens and len(self._ends):
            logits[self._ends] = -np.inf
            best = -1
        token = self._choose(logits, best)
        if self._matcher is not None:
            self._matcher.advance(token)
        self._count += 1
        self._adjust.count(token)
        return Sample(token) if report is None else report.sample(token)

    def _choose(self, logits: Logits, best: int) -> int:
        if not self._temperature:
            best = best if best >= 0 else int(np.argmax(logits))
            # One token is tried in microseconds, a mask takes a fraction of a millisecond.
            if self._matcher is None or self._matcher.allows(best):
                return best
        if self._matcher is not None:
            allowed = self._matcher.mask()
            kept = np.where(allowed, logits, np.float32(-np.inf))
            if kept.max() == -np.inf:
                # Only an end may follow, though it is too early for one.
                return int(np.argmax(allowed))
            logits = kept
        return self._draw(logits) if self._temperature else int(np.argmax(logits))

    def _draw(self, scores: Logits) -> int:
        ids = None
        if self._top_k and self._top_k < len(scores):
            ids = np.sort(largest(scores, self._top_k))
            scores = scores[ids]
        weights = scores - scores.max()
        weights *= np.float32(1.0 / self._temperature)
        np.exp(weights, out=weights)
        if self._top_p < 1.0:
            keep_nucleus(weights, self._top_p)
        if self._min_p > 0.0:
            weights *= weights >= np.float32(self._min_p)
        index = draw(weights, self._random.random())
        return index if ids is None else int(ids[index])


def best_of(logits: Logits) -> list[int]:
    """Return the likeliest token of each row of ``logits``, float32 [rows, vocab].

    Raises:
        EngineError: a row holds NaN or no finite value.
    """
    found: list[int] = logits.argmax(axis=1).tolist()
    for row, best in enumerate(found):
        # argmax stops at the first NaN, so looking at one value finds any.
        if not math.isfinite(logits[row, best]):
            raise EngineError(
                "the engine returned logits that are not finite "
                f"(token {best}: {logits[row, best]}); run `trtcoder verify` on it"
            )
    return found


def keep_allowed(logits: Logits, allowed: NDArray[np.int64]) -> None:
    """Set all logits but those of ``allowed`` to minus infinity, in place.

    Raises:
        EngineError: no id is allowed.
    """
    if not len(allowed):
        raise EngineError("no token can go on as asked; the tokenizer has no token of one byte")
    kept = logits[allowed]
    logits.fill(-np.inf)
    logits[allowed] = kept


class _Adjustments:
    """Bias and penalties: what changes single logits before anything else."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self._repetition = params.repetition_penalty or 1.0
        self._counts_answer = params.frequency_penalty != 0 or params.presence_penalty != 0
        bias = {token: value for token, value in params.logit_bias.items() if token < vocab_size}
        self._bias_ids = np.array(list(bias), np.int64)
        self._bias = np.array(list(bias.values()), np.float32)
        self._seen = _Counts(vocab_size)
        if self._repetition != 1.0:
            self._seen.add(np.unique(np.array(prompt_ids, np.int64)))
        self._answer = _Counts(vocab_size)
        self.active = bool(bias) or self._repetition != 1.0 or self._counts_answer

    def count(self, token: int) -> None:
        """Note a token of the answer."""
        if self._repetition != 1.0 and not self._seen.has(token):
            self._seen.add(np.array([token], np.int64))
        if self._counts_answer:
            self._answer.add(np.array([token], np.int64))

    def apply(self, logits: Logits) -> None:
        """Change ``logits`` in place."""
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if self._repetition != 1.0:
            ids, _ = self._seen.all()
            values = logits[ids]
            factor = np.float32(self._repetition)
            logits[ids] = np.where(values > 0, values / factor, values * factor)
        if self._counts_answer:
            ids, counts = self._answer.all()
            params = self._params
            logits[ids] -= params.frequency_penalty * counts + np.float32(params.presence_penalty)


class _Counts:
    """How often tokens were seen, kept as arrays that grow."""

    def __init__(self, vocab_size: int) -> None:
        self._place: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.empty(64, np.float32)
        self._vocab_size = vocab_size

    def has(self, token: int) -> bool:
        return token in self._place

    def add(self, tokens: NDArray[np.int64]) -> None:
        for token in tokens.tolist():
            place = self._place.get(token)
            if place is not None:
                self._counts[place] += 1
                continue
            place = self._place[token] = len(self._place)
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
            self._ids[place], self._counts[place] = token, 1

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        count = len(self._place)
        return self._ids[:count], self._counts[:count]


@dataclass(frozen=True, slots=True)
class Report:
    """Log-probabilities of a row, taken before it is changed."""

    logits: Logits
    normaliser: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, logits: Logits, count: int) -> Report:
        """Return the ``count`` most likely tokens, and what any token's probability needs."""
        normaliser = log_sum_exp(logits)
        ids = largest(logits, count) if count else np.empty(0, np.intp)
        top = tuple((int(i), float(logits[i]) - normaliser) for i in ids)
        return cls(logits, normaliser, top)

    def sample(self, token: int) -> Sample:
        """Return a token with its log-probability."""
        return Sample(token, float(self.logits[token]) - self.normaliser, self.top)
