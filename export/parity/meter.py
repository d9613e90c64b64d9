"""Compares an engine's values with the reference's, sequence by sequence, in float64.

A sequence is compared layer by layer as both sides advance, and its logits at last. Only numbers
a position are kept, so that a comparison of any length fits in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trtcoder.bundle.comparison import Comparison, Layer
from trtcoder.errors import ParityError
from trtcoder.export.parity.gates import GATES, judge
from trtcoder.export.parity.logits import TINY, LogitErrors, TextSum
from trtcoder.export.parity.routing import RouterAgreement
from trtcoder.export.reference.trace import Floats, LayerTrace, Trace
from trtcoder.model.architecture import ModelConfig
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


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
        self.config = config
        self.layers = [
            LayerErrors(config.is_moe_layer(layer)) for layer in range(config.num_hidden_layers)
        ]
        self.logits = LogitErrors()
        self.texts: dict[str, TextSum] = {}
        self._precision = precision
        self._max_kl = max_kl
        self._non_finite: dict[str, int] = {}
        self._decode_error: float | None = None

    def sequence(
        self, kind: str, ids: Sequence[int], scored_from: int, scored_bytes: int
    ) -> SequenceParity:
        """Return the comparison of one sequence of T tokens, still empty.

        Args:
            kind: the text's kind, under which its perplexity is reported.
            ids: the tokens; the logits of a token predict the next one.
            scored_from: index of the first token whose prediction counts.
            scored_bytes: length of the text of the tokens that count.

        Raises:
            ParityError: there are no tokens.
        """
        if not len(ids):
            raise ParityError(f"{kind} text: a sequence without tokens; leave it out")
        return SequenceParity(self, kind, ids, scored_from, scored_bytes)

    def add(
        self,
        kind: str,
        ids: Sequence[int],
        scored_from: int,
        scored_bytes: int,
        reference: Trace,
        engine: Trace,
    ) -> None:
        """Compare one sequence that both sides have run to its end; see `sequence`.

        Raises:
            ParityError: there are no tokens, or an array has not the shape that the configuration
                gives.
        """
        comparison = self.sequence(kind, ids, scored_from, scored_bytes)
        moe = 0
        for layer in range(self.config.num_hidden_layers):
            routed = self.config.is_moe_layer(layer)
            wanted, found = (
                LayerTrace(trace.hidden[layer], trace.router_probabilities[moe] if routed else None)
                for trace in (reference, engine)
            )
            comparison.add_layer(layer, wanted, found)
            moe += routed
        comparison.add_logits(reference.logits, engine.logits)

    def add_decode(self, prefilled: Floats, decoded: Floats) -> None:
        """Compare logits ``[T, V]`` of one prefill with those of decoding token by token."""
        self.count_bad("engine decoded logits", decoded)
        with np.errstate(invalid="ignore", over="ignore"):
            largest = np.maximum(np.abs(prefilled).max(), TINY)
            error = np.abs(decoded.astype(np.float64) - prefilled).max() / largest
            self._decode_error = float(np.maximum(self._decode_error or 0.0, error))

    def count_bad(self, place: str, values: Floats) -> None:
        """Count values that are not finite under their place."""
        count = values.size - int(np.isfinite(values).sum())
        if count:
            self._non_finite[place] = self._non_finite.get(place, 0) + count

    def report(self) -> Comparison:
        """Return the metrics so far and how they stand against the gates.

        Raises:
            ParityError: nothing was added.
        """
        logits = self.logits.parity()
        if logits is None:
            raise ParityError("nothing was compared; give held-out text of at least one token")
        layers = tuple(errors.parity(layer) for layer, errors in enumerate(self.layers))
        verdict, quality, gates = judge(
            self._precision, logits, layers, self._non_finite, self._max_kl, self._decode_error
        )
        texts = tuple(text.parity(kind) for kind, text in self.texts.items() if text.tokens)
        return Comparison(
            precision=self._precision,
            verdict=verdict,
            quality=quality,
            gates=gates,
            logits=logits,
            layers=layers,
            texts=texts,
        )


class SequenceParity:
    """The comparison of one sequence, which adds to its meter; `ParityMeter.sequence` makes it."""

    def __init__(
        self,
        meter: ParityMeter,
        kind: str,
        ids: Sequence[int],
        scored_from: int,
        scored_bytes: int,
    ) -> None:
        self._meter = meter
        self._kind = kind
        self._ids = ids
        self._scored = scored_from, scored_bytes
        # Whether a layer so far differed in a tie, at the token or before it.
        self._after_tie = np.zeros(len(ids), np.bool_)

    def add_layer(self, layer: int, reference: LayerTrace, engine: LayerTrace) -> None:
        """Compare what a layer made of the sequence; the layers must come in their order.

        Raises:
            ParityError: an array has not the shape that the configuration gives.
        """
        config, errors = self._meter.config, self._meter.layers[layer]
        for name, trace in (("reference", reference), ("engine", engine)):
            where = f"{name} layers.{layer}"
            self._check(f"{where} hidden state", trace.hidden, config.hidden_size)
            if trace.router_probabilities is not None:
                self._check(f"{where} router", trace.router_probabilities, config.n_routed_experts)
        errors.add_hidden(reference.hidden, engine.hidden)
        wanted, found = reference.router_probabilities, engine.router_probabilities
        if errors.router is not None and wanted is not None and found is not None:
            routed = DeepseekV2Config.of(config)
            self._after_tie = errors.router.add(wanted, found, routed, self._after_tie)

    def add_logits(self, reference: Floats, engine: Floats) -> None:
        """Compare the logits ``[T, V]``, behind the last layer.

        Raises:
            ParityError: an array has not the shape that the configuration gives.
        """
        for name, values in (("reference", reference), ("engine", engine)):
            self._check(f"{name} logits", values, self._meter.config.vocab_size)
        self._meter.logits.add(reference, engine, self._after_tie)
        text = self._meter.texts.setdefault(self._kind, TextSum())
        text.add(self._ids, *self._scored, reference, engine)

    def _check(self, place: str, values: Floats, width: int) -> None:
        expected = (len(self._ids), width)
        if values.shape != expected:
            raise ParityError(f"{place}: expected {list(expected)}, found {list(values.shape)}")
        self._meter.count_bad(place, values)


class LayerErrors:
    """Differences of one layer's values; ``router`` is None for a layer without experts."""

    def __init__(self, has_experts: bool) -> None:
        self.router = RouterAgreement() if has_experts else None
        self._total, self._tokens, self._largest = 0.0, 0, 0.0

    def add_hidden(self, reference: Floats, engine: Floats) -> None:
        """Compare residual streams ``[T, H]``."""
        wide = reference.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.linalg.norm(engine.astype(np.float64) - wide, axis=-1)
            relative = error / np.maximum(np.linalg.norm(wide, axis=-1), TINY)
        self._total += float(relative.sum())
        self._tokens += relative.size
        self._largest = float(np.maximum(self._largest, relative.max()))

    def parity(self, layer: int) -> Layer:
        """Return the metrics."""
        mean = self._total / self._tokens if self._tokens else math.nan
        if self.router is None:
            return Layer(layer, mean, self._largest, None, None, None, None)
        router = self.router
        return Layer(
            layer, mean, self._largest, router.share, router.ties, router.wrong, router.after_tie
        )
