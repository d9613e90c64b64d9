"""Compares an engine's values with the reference's, sequence by sequence, in float64.

Only numbers a position are kept, never logits, so that a comparison of any length fits in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trtcoder.config import ModelConfig
from trtcoder.errors import ParityError
from trtcoder.export.parity_report import (
    GATES,
    GateResult,
    LayerParity,
    LogitParity,
    ParityReport,
    TextParity,
    judge,
    render_table,
)
from trtcoder.export.parity_routing import Floats, RouterAgreement, select_experts

__all__ = [
    "GateResult",
    "LayerParity",
    "LogitParity",
    "ParityMeter",
    "ParityReport",
    "TextParity",
    "kl_divergence",
    "render_table",
    "select_experts",
]

# Two logits nearly tie when an engine that just meets the fp32 gate could swap them: each may move
# by the gate's relative error. It must not depend on the engine's own error: a swap always needs
# an error of half the gap, so every disagreement would excuse itself.
LOGIT_TIE = 2 * GATES["fp32"]["relative logit error"]
# Rows of logits handled at once: 64 x 102,400 float64 are 52 MB.
_ROWS = 64


class Trace(Protocol):
    """What a model computed for T tokens; `ReferenceTrace` and `EngineTrace` are such."""

    @property
    def logits(self) -> Floats:
        """``[T, V]``."""

    @property
    def hidden(self) -> Floats:
        """``[L, T, H]``, the residual stream after each layer, before the final norm."""

    @property
    def router_probabilities(self) -> Floats:
        """``[Lm, T, E]``, of each layer with experts."""


class ParityMeter:
    """Collects comparisons; `report` may be called at any time."""

    def __init__(self, config: ModelConfig, precision: str, *, max_kl: float | None = None) -> None:
        """Start empty.

        Args:
            config: the model's configuration.
            precision: how the weights are stored, a key of `GATES`.
            max_kl: a limit for the mean KL in nats, added to the precision's own gates.

        Raises:
            ParityError: there are no gates for ``precision``.
        """
        if precision not in GATES:
            raise ParityError(f"precision {precision!r} has no gates, only {', '.join(GATES)} have")
        self._config = config
        self._precision = precision
        self._max_kl = max_kl
        layers = range(config.num_hidden_layers)
        self._moe_layers = [layer for layer in layers if config.is_moe_layer(layer)]
        self._hidden = [_Mean() for _ in layers]
        self._routers = {layer: RouterAgreement() for layer in self._moe_layers}
        # One number a position.
        self._kl: list[NDArray[np.float64]] = []
        self._relative: list[NDArray[np.float64]] = []
        self._after_tie: list[NDArray[np.bool_]] = []
        self._max_abs = 0.0
        self._top1 = np.zeros(3, np.int64)  # agree, ambiguous, wrong
        self._texts: dict[str, _TextSum] = {}
        self._non_finite: dict[str, int] = {}
        self._decode_error: float | None = None

    def add(
        self,
        kind: str,
        ids: Sequence[int],
        scored_from: int,
        scored_bytes: int,
        reference: Trace,
        engine: Trace,
    ) -> None:
        """Compare one sequence of T tokens.

        Args:
            kind: the text's kind, under which its perplexity is reported.
            ids: the tokens; the logits of a token predict the next one.
            scored_from: index of the first token whose prediction counts.
            scored_bytes: length of the text of the tokens that count.
            reference: the reference's values.
            engine: the engine's.

        Raises:
            ParityError: there are no tokens, or an array has not the shape that the configuration
                gives.
        """
        if not len(ids):
            raise ParityError(f"{kind} text: a sequence without tokens; leave it out")
        for name, trace in (("reference", reference), ("engine", engine)):
            self._check(name, trace, len(ids))
        self._add_hidden(reference.hidden, engine.hidden)
        self._after_tie.append(self._add_routers(reference, engine))
        for start in range(0, len(ids), _ROWS):
            rows = slice(start, start + _ROWS)
            self._add_logits(reference.logits[rows], engine.logits[rows])
        text = self._texts.setdefault(kind, _TextSum())
        text.add(ids, scored_from, scored_bytes, reference.logits, engine.logits)

    def add_decode(self, prefilled: Floats, decoded: Floats) -> None:
        """Compare logits ``[T, V]`` of one prefill with those of decoding token by token."""
        self._count_bad("engine decoded logits", decoded)
        with np.errstate(invalid="ignore", over="ignore"):
            largest = np.maximum(np.abs(prefilled).max(), _TINY)
            error = np.abs(decoded.astype(np.float64) - prefilled).max() / largest
            self._decode_error = float(np.maximum(self._decode_error or 0.0, error))

    def report(self) -> ParityReport:
        """Return the metrics so far and how they stand against the gates.

        Raises:
            ParityError: nothing was added.
        """
        if not self._kl:
            raise ParityError("nothing was compared; give held-out text of at least one token")
        kl, relative = np.concatenate(self._kl), np.concatenate(self._relative)
        judged = ~np.concatenate(self._after_tie)
        with np.errstate(invalid="ignore"):  # infinite values are reported as such
            mean, p99, largest = float(kl.mean()), float(np.quantile(kl, 0.99)), float(kl.max())
        logits = LogitParity(
            positions=len(kl),
            max_abs=self._max_abs,
            relative_error=float(relative.max()),
            kl_mean=mean,
            kl_p99=p99,
            kl_max=largest,
            top1_agreement=int(self._top1[0]) / len(kl),
            top1_ambiguous=int(self._top1[1]),
            top1_wrong=int(self._top1[2]),
            after_tie=len(kl) - int(judged.sum()),
            # Without any position to judge there is nothing that could pass.
            judged_relative_error=float(relative[judged].max()) if judged.any() else math.nan,
            judged_kl_max=float(kl[judged].max()) if judged.any() else math.nan,
        )
        layers = tuple(
            LayerParity(layer, hidden.mean, hidden.largest, *self._router_numbers(layer))
            for layer, hidden in enumerate(self._hidden)
        )
        verdict, gates = judge(
            self._precision, logits, layers, self._non_finite, self._max_kl, self._decode_error
        )
        texts = tuple(text.parity(kind) for kind, text in self._texts.items() if text.tokens)
        return ParityReport(self._precision, verdict, gates, logits, layers, texts)

    def _router_numbers(
        self, layer: int
    ) -> tuple[float | None, int | None, int | None, int | None]:
        router = self._routers.get(layer)
        if router is None:
            return None, None, None, None
        return router.share, router.ties, router.wrong, router.after_tie

    def _check(self, name: str, trace: Trace, tokens: int) -> None:
        config, moe = self._config, self._moe_layers
        expected = {
            "logits": (tokens, config.vocab_size),
            "hidden": (config.num_hidden_layers, tokens, config.hidden_size),
            "router_probabilities": (len(moe), tokens, config.n_routed_experts if moe else 0),
        }
        for field, shape in expected.items():
            values: Floats = getattr(trace, field)
            if values.shape != shape and 0 not in shape:
                raise ParityError(
                    f"{name} {field}: expected {list(shape)}, found {list(values.shape)}"
                )
        self._count_bad(f"{name} logits", trace.logits)
        for layer, hidden in enumerate(trace.hidden):
            self._count_bad(f"{name} layers.{layer} hidden state", hidden)
        for layer, probabilities in zip(moe, trace.router_probabilities, strict=False):
            self._count_bad(f"{name} layers.{layer} router", probabilities)

    def _count_bad(self, place: str, values: Floats) -> None:
        count = values.size - int(np.isfinite(values).sum())
        if count:
            self._non_finite[place] = self._non_finite.get(place, 0) + count

    def _add_hidden(self, reference: Floats, engine: Floats) -> None:
        for mean, wanted, found in zip(self._hidden, reference, engine, strict=True):
            wide = wanted.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                error = np.linalg.norm(found.astype(np.float64) - wide, axis=-1)
                mean.add(error / np.maximum(np.linalg.norm(wide, axis=-1), _TINY))

    def _add_routers(self, reference: Trace, engine: Trace) -> NDArray[np.bool_]:
        """Return ``[T]``: whether a layer differed in a tie, at the token or before it."""
        after_tie = np.zeros(len(reference.logits), np.bool_)
        pairs = zip(reference.router_probabilities, engine.router_probabilities, strict=False)
        for layer, (wanted, found) in zip(self._moe_layers, pairs, strict=False):
            after_tie = self._routers[layer].add(wanted, found, self._config, after_tie)
        return after_tie

    def _add_logits(self, reference: Floats, engine: Floats) -> None:
        wanted, found = reference.astype(np.float64), engine.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            errors = np.abs(found - wanted).max(axis=-1)
            largest = np.maximum(np.abs(wanted).max(axis=-1), _TINY)
            # np.maximum keeps a NaN, which max() may lose.
            self._max_abs = float(np.maximum(self._max_abs, errors.max()))
            self._relative.append(errors / largest)
            self._kl.append(kl_divergence(wanted, found))
            rows = np.arange(len(wanted))
            first, second = wanted.argmax(axis=-1), found.argmax(axis=-1)
            near = wanted[rows, first] - wanted[rows, second] <= LOGIT_TIE * largest
        outcome = np.where(first == second, 0, np.where(near, 1, 2))
        self._top1 += np.bincount(outcome, minlength=3)


def kl_divergence(reference: Floats, engine: Floats) -> NDArray[np.float64]:
    """Return KL(reference || engine) in nats over the last axis of the logits."""
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, found = _log_softmax(reference), _log_softmax(engine)
        # Rounding gives down to -1e-16 where both are the same.
        kl: NDArray[np.float64] = np.maximum((np.exp(wanted) * (wanted - found)).sum(axis=-1), 0)
    return kl


class _Mean:
    """Mean and largest of numbers that come in parts."""

    def __init__(self) -> None:
        self.total, self.count, self.largest = 0.0, 0, 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        self.total += float(values.sum())
        self.count += values.size
        self.largest = float(np.maximum(self.largest, values.max()))

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


class _TextSum:
    """Negative log-likelihood of held-out text of one kind, in nats."""

    def __init__(self) -> None:
        self.tokens = self.bytes = 0
        self.nats = np.zeros(2)

    def add(self, ids: Sequence[int], scored_from: int, scored_bytes: int, *logits: Floats) -> None:
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

    def parity(self, kind: str) -> TextParity:
        with np.errstate(over="ignore"):
            reference, engine = (float(value) for value in np.exp(self.nats / self.tokens))
        per_byte = [float(value) / self.bytes if self.bytes else None for value in self.nats]
        return TextParity(kind, self.tokens, self.bytes, reference, engine, *per_byte)


_TINY = np.finfo(np.float64).tiny


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
