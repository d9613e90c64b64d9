"""Compares logits in float64; only numbers a position are kept, never logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.comparison import Histogram, Logits, Text
from trtcoder.export.parity.gates import GATES
from trtcoder.export.reference.trace import Floats

# Two logits nearly tie when an engine that just meets the fp32 gate could swap them: each may move
# by the gate's relative error. It must not depend on the engine's own error: a swap always needs
# an error of half the gap, so every disagreement would excuse itself.
LOGIT_TIE = 2 * GATES["fp32"]["relative logit error"]
# log10 of nats: from what float32 loses (1e-14) to what only a broken engine does (100).
_KL_EDGES = np.arange(-14, 2.125, 0.25)
# Rows of logits handled at once: 64 x 102,400 float64 are 52 MB.
_ROWS = 64
# Of a probability that is 0 in float64: 0 x -inf would be NaN, and 0 x this is 0.
_LEAST_LOG = -1e4
TINY = np.finfo(np.float64).tiny


def kl_divergence(reference: Floats, engine: Floats) -> NDArray[np.float64]:
    """Return KL(reference || engine) in nats over the last axis of the logits."""
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, found = _log_softmax(reference), _log_softmax(engine)
        # Rounding gives down to -1e-16 where both are the same.
        kl: NDArray[np.float64] = np.maximum((np.exp(wanted) * (wanted - found)).sum(axis=-1), 0)
    return kl


def kl_histogram(kl: NDArray[np.float64]) -> Histogram:
    """Return how many positions have a KL of which order; NaN is in no bin.

    What lies below the first edge or above the last counts in the first or last bin.
    """
    with np.errstate(divide="ignore"):
        orders = np.log10(kl[~np.isnan(kl)])
    counts, _ = np.histogram(np.clip(orders, _KL_EDGES[0], _KL_EDGES[-1]), _KL_EDGES)
    return Histogram(tuple(_KL_EDGES.tolist()), tuple(counts.tolist()))


class LogitErrors:
    """Differences of logits, position by position."""

    def __init__(self) -> None:
        # One number a position.
        self._kl: list[NDArray[np.float64]] = []
        self._relative: list[NDArray[np.float64]] = []
        self._after_tie: list[NDArray[np.bool_]] = []
        self._max_abs = 0.0
        self._top1 = np.zeros(3, np.int64)  # agree, ambiguous, wrong
        self._context = ContextInformation()

    def add(self, reference: Floats, engine: Floats, after_tie: NDArray[np.bool_]) -> None:
        """Compare logits ``[T, V]``; ``after_tie`` ``[T]`` says which positions a tie reached."""
        self._after_tie.append(after_tie)
        for start in range(0, len(reference), _ROWS):
            rows = slice(start, start + _ROWS)
            self._add(reference[rows].astype(np.float64), engine[rows].astype(np.float64))

    def _add(self, wanted: NDArray[np.float64], found: NDArray[np.float64]) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            errors = np.abs(found - wanted).max(axis=-1)
            largest = np.maximum(np.abs(wanted).max(axis=-1), TINY)
            # np.maximum keeps a NaN, which max() may lose.
            self._max_abs = float(np.maximum(self._max_abs, errors.max()))
            self._relative.append(errors / largest)
            self._kl.append(kl_divergence(wanted, found))
            self._context.add(wanted)
            rows = np.arange(len(wanted))
            first, second = wanted.argmax(axis=-1), found.argmax(axis=-1)
            near = wanted[rows, first] - wanted[rows, second] <= LOGIT_TIE * largest
        outcome = np.where(first == second, 0, np.where(near, 1, 2))
        self._top1 += np.bincount(outcome, minlength=3)

    def parity(self) -> Logits | None:
        """Return the metrics, None when nothing was added."""
        if not self._kl:
            return None
        kl, relative = np.concatenate(self._kl), np.concatenate(self._relative)
        judged = ~np.concatenate(self._after_tie)
        with np.errstate(invalid="ignore"):  # infinite values are reported as such
            mean, p99, largest = float(kl.mean()), float(np.quantile(kl, 0.99)), float(kl.max())
        return Logits(
            positions=len(kl),
            max_abs=self._max_abs,
            relative_error=float(relative.max()),
            kl_mean=mean,
            kl_p99=p99,
            kl_max=largest,
            kl_histogram=kl_histogram(kl),
            top1_agreement=int(self._top1[0]) / len(kl),
            top1_ambiguous=int(self._top1[1]),
            top1_wrong=int(self._top1[2]),
            after_tie=len(kl) - int(judged.sum()),
            # Without any position to judge there is nothing that could pass.
            judged_relative_error=float(relative[judged].max()) if judged.any() else math.nan,
            judged_kl_max=float(kl[judged].max()) if judged.any() else math.nan,
            context_nats=self._context.nats(),
            constant_top1=self._context.constant_top1(),
        )


class ContextInformation:
    """What the reference's predictions owe to their context.

    Of all answers that ignore the context, one fixed distribution for every position, the mean of
    the reference's distributions is the nearest to them. Its mean KL from them is the entropy of
    the mean less the mean of the entropies: the information between context and next token.
    """

    def __init__(self) -> None:
        self._positions = 0
        self._sum: NDArray[np.float64] | None = None
        self._entropy = 0.0
        self._first: NDArray[np.int64] | None = None

    def add(self, logits: NDArray[np.float64]) -> None:
        """Count logits ``[T, V]`` of the reference."""
        with np.errstate(invalid="ignore", over="ignore"):
            log = _log_softmax(logits)
            share = np.exp(log)
        if self._sum is None or self._first is None:
            self._sum, self._first = np.zeros(log.shape[-1]), np.zeros(log.shape[-1], np.int64)
        self._positions += len(log)
        self._sum += share.sum(axis=0)
        self._entropy -= float((share * np.maximum(log, _LEAST_LOG)).sum())
        self._first += np.bincount(log.argmax(axis=-1), minlength=log.shape[-1])

    def nats(self) -> float:
        """Return the information in nats a token; NaN where the reference is not finite."""
        if self._sum is None:
            return math.nan
        mean = self._sum / self._positions
        entropy = -float((mean * np.log(np.maximum(mean, TINY))).sum())
        return max(entropy - self._entropy / self._positions, 0.0)

    def constant_top1(self) -> float:
        """Return how often the reference's most probable token is the most frequent such token."""
        return math.nan if self._first is None else int(self._first.max()) / self._positions


class TextSum:
    """Negative log-likelihood of held-out text of one kind, in nats."""

    def __init__(self) -> None:
        self.tokens = self.bytes = 0
        self.nats = np.zeros(2)

    def add(self, ids: Sequence[int], scored_from: int, scored_bytes: int, *logits: Floats) -> None:
        """Count a sequence's predictions by the reference's and the engine's ``logits``."""
        targets = np.arange(max(scored_from, 1), len(ids))  # nothing predicts the first token
        if not len(targets):
            return
        self.tokens += len(targets)
        self.bytes += scored_bytes
        for start in range(0, len(targets), _ROWS):
            rows = targets[start : start + _ROWS]
            wanted = np.asarray(ids, np.int64)[rows]
            with np.errstate(invalid="ignore", over="ignore"):
                self.nats -= [
                    _log_softmax(values[rows - 1])[np.arange(len(rows)), wanted].sum()
                    for values in logits
                ]

    def parity(self, kind: str) -> Text:
        """Return the perplexities."""
        with np.errstate(over="ignore"):
            reference, engine = (float(value) for value in np.exp(self.nats / self.tokens))
        per_byte = [float(value) / self.bytes if self.bytes else None for value in self.nats]
        return Text(kind, self.tokens, self.bytes, reference, engine, *per_byte)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
