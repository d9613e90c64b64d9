"""Whether two routers send a token to the same experts, or differ where scores tie."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trtcoder.export.reference.trace import Floats
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

# Two scores of the router tie when they differ by less than this, relative to the larger: float32
# sums in another order move a probability by about as much.
ROUTER_TIE = 1e-5


def select_experts(probabilities: Floats, config: DeepseekV2Config) -> NDArray[np.int64]:
    """Return the ``top_k`` experts of each token, sorted by number, ``[T, top_k]``.

    ``probabilities`` is ``[T, E]``. With group_limited_greedy only experts of the ``topk_group``
    groups with the largest best expert are eligible (DeepSeek-V2, section 2.2.2; in transformers
    `DeepseekV2TopkRouter.forward`). Between equal scores the lower number wins.
    """
    eligible = _eligible(probabilities, _groups(probabilities, config), config)
    return np.sort(np.argsort(-eligible, axis=-1, kind="stable")[:, : config.num_experts_per_tok])


def _groups(probabilities: Floats, config: DeepseekV2Config) -> NDArray[np.bool_] | None:
    """Return which groups are eligible, ``[T, n_group]``, or None when routing is greedy."""
    if config.topk_method != "group_limited_greedy":
        return None
    scores = _group_scores(probabilities, config)
    return _mask(np.argsort(-scores, axis=-1, kind="stable")[:, : config.topk_group], scores)


def _group_scores(probabilities: Floats, config: DeepseekV2Config) -> Floats:
    best: Floats = probabilities.reshape(len(probabilities), config.n_group, -1).max(axis=-1)
    return best


def _eligible(
    probabilities: Floats, groups: NDArray[np.bool_] | None, config: DeepseekV2Config
) -> Floats:
    """Return the probabilities, -inf outside of the groups."""
    if groups is None:
        return probabilities
    inside = np.repeat(groups, config.n_routed_experts // config.n_group, axis=-1)
    return np.where(inside, probabilities, np.float32(-np.inf))


def _mask(chosen: NDArray[np.int64], like: Floats) -> NDArray[np.bool_]:
    mask = np.zeros(like.shape, np.bool_)
    np.put_along_axis(mask, chosen, True, axis=-1)
    return mask


def _tied(scores: Floats, chosen: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether every score that only ``chosen`` has is within the tolerance of all of ``other``."""
    highest = np.where(chosen & ~other, scores, -np.inf).max(axis=-1)
    lowest = np.where(other & ~chosen, scores, np.inf).min(axis=-1)
    tied: NDArray[np.bool_] = (chosen == other).all(axis=-1)
    tied |= lowest >= highest * (1 - ROUTER_TIE)
    return tied


class RouterAgreement:
    """Tokens of one layer whose experts agree, tie, differ after a tie or differ."""

    def __init__(self) -> None:
        self.tokens = self.ties = self.after_tie = self.wrong = 0

    def add(
        self,
        reference: Floats,
        engine: Floats,
        config: DeepseekV2Config,
        after_tie: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Compare the probabilities ``[T, E]`` of one sequence.

        ``after_tie`` ``[T]`` says for which tokens an earlier layer differed in a tie, at the
        token or before it: from there on both compute on different values, and neither is wrong.
        Returns ``[T]``: ``after_tie`` for the next layer.
        """
        wanted, found = select_experts(reference, config), select_experts(engine, config)
        differs = (wanted != found).any(axis=-1)
        self.tokens += len(differs)
        if not differs.any():
            return after_tie
        ties = differs.copy()
        ties[differs] = self._ties(reference[differs], engine[differs], found[differs], config)
        self.ties += int(ties.sum())
        self.after_tie += int((differs & ~ties & after_tie).sum())
        self.wrong += int((differs & ~ties & ~after_tie).sum())
        reached: NDArray[np.bool_] = after_tie | np.logical_or.accumulate(ties)
        return reached

    @staticmethod
    def _ties(
        reference: Floats, engine: Floats, found: NDArray[np.int64], config: DeepseekV2Config
    ) -> NDArray[np.bool_]:
        """Whether the engine's choice is one of equals by the reference's scores.

        The groups are judged first, then the experts as if the reference had the same groups.
        """
        groups = _groups(engine, config)
        scores = _eligible(reference, groups, config)
        ranked = np.argsort(-scores, axis=-1, kind="stable")[:, : config.num_experts_per_tok]
        tied = _tied(scores, _mask(ranked, scores), _mask(found, scores))
        wanted = _groups(reference, config)
        if groups is None or wanted is None:
            return tied
        return tied & _tied(_group_scores(reference, config), wanted, groups)

    @property
    def share(self) -> float:
        """Share of tokens whose experts agree."""
        agree = self.tokens - self.ties - self.after_tie - self.wrong
        return agree / self.tokens if self.tokens else math.nan
