"""From one row of logits to one token.

The order is: repetition penalty, frequency and presence penalties, temperature, top-k, top-p,
min-p, then one draw. Each of the three filters sees the distribution that the one before it left,
renormalised, as in transformers' logits processors. Ties fall to the lower token id.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import EngineError
from trtcoder.runtime.sampling.params import SamplingParams

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """A chosen token; log-probabilities (natural, of the unmodified logits) where asked for."""

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one request and keeps the counts that the penalties need."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self.params = params
        # A drawn seed is kept, so that any answer can be had again.
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._penalties = _Penalties(params, prompt_ids, vocab_size)

    def sample(self, logits: Logits) -> Sample:
        """Choose the next token from ``logits``, float32 [vocab], which are not changed.

        Raises:
            EngineError: the logits hold NaN or infinity.
        """
        scores = self._penalties.apply(logits)
        best = int(np.argmax(scores))
        # argmax stops at the first NaN, so looking at one value finds any.
        if not np.isfinite(scores[best]):
            raise EngineError(
                f"the engine returned logits that are not finite (token {best}: {scores[best]}); "
                "run `trtcoder verify` on it"
            )
        token = best if self.params.temperature == 0.0 else self._draw(scores)
        self._penalties.count(token)
        if self.params.logprobs is None:
            return Sample(token)
        return _with_logprobs(token, logits, self.params.logprobs)

    def _draw(self, scores: Logits) -> int:
        params = self.params
        ids = top_k_ids(scores, params.top_k)
        kept = (scores if ids is None else scores[ids]).astype(np.float64)
        kept -= kept.max()
        with np.errstate(over="ignore"):  # a tiny temperature: the others become -inf
            kept /= params.temperature
        weights = np.exp(kept, out=kept)
        keep = nucleus(weights, params.top_p)
        if params.min_p > 0.0:
            common = np.flatnonzero(weights >= params.min_p * weights.max())
            keep = common if keep is None else np.intersect1d(keep, common, assume_unique=True)
        if keep is not None:
            weights = weights[keep]
            ids = keep if ids is None else ids[keep]
        sums = np.cumsum(weights)
        drawn = np.searchsorted(sums, self._random.random() * sums[-1], side="right")
        index = int(min(drawn, len(sums) - 1))
        return index if ids is None else int(ids[index])


def top_k_ids(scores: Logits, k: int) -> NDArray[np.intp] | None:
    """Return the ids of the k highest scores, ascending; None when that is all of them."""
    if k == 0 or k >= len(scores):
        return None
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    ids = np.flatnonzero(scores >= threshold)
    if len(ids) > k:  # ties at the threshold
        ids = np.sort(ids[np.argsort(-scores[ids], kind="stable")[:k]])
    return ids


def nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.intp] | None:
    """Return the ascending indices that top-p keeps of unnormalised probabilities; None: all.

    They are the shortest prefix, in descending order, whose sum reaches ``top_p`` of the total
    (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).
    """
    if top_p >= 1.0:
        return None
    total = weights.sum()
    # The n indices below (1 - top_p) / n sum to less than 1 - top_p: the nucleus is reached
    # without them. What is left to sort is a few hundred of a vocabulary of 100,000.
    threshold = min((1.0 - top_p) / len(weights) * total, weights.max())
    candidates = np.flatnonzero(weights >= threshold)
    descending = -np.sort(-weights[candidates])
    count = 1 + int(np.searchsorted(np.cumsum(descending), top_p * total, side="left"))
    if count >= len(candidates):
        return candidates
    kept = candidates[weights[candidates] >= descending[count - 1]]
    ties = np.flatnonzero(weights[kept] == descending[count - 1])
    return np.delete(kept, ties[len(ties) - (len(kept) - count) :])


class _Penalties:
    """Counts tokens and lowers the scores of those that were there already."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self._vocab_size = vocab_size
        self._active = params.has_penalties
        self._answer: dict[int, int] = {}
        self._seen = set(prompt_ids) if params.repetition_penalty != 1.0 else set()

    def count(self, token: int) -> None:
        if self._active:
            self._answer[token] = self._answer.get(token, 0) + 1
            if self._params.repetition_penalty != 1.0:
                self._seen.add(token)

    def apply(self, logits: Logits) -> Logits:
        if not self._active:
            return logits
        params, scores = self._params, logits.copy()
        if self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            values = scores[ids]
            scores[ids] = np.where(
                values > 0, values / params.repetition_penalty, values * params.repetition_penalty
            )
        if self._answer:
            ids = np.fromiter(self._answer.keys(), np.int64, len(self._answer))
            counts = np.fromiter(self._answer.values(), np.float32, len(self._answer))
            scores[ids] -= params.frequency_penalty * counts + params.presence_penalty
        return scores


def _with_logprobs(token: int, logits: Logits, count: int) -> Sample:
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    ids = top_k_ids(logits, count) if count else np.empty(0, np.intp)
    if ids is None:
        ids = np.arange(len(logits))
    ordered = ids[np.argsort(-values[ids], kind="stable")]
    top = tuple((int(i), float(values[i])) for i in ordered)
    return Sample(token, float(values[token]), top)
