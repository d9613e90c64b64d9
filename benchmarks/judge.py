"""Holds logits of any origin against the float32 reference, on one held-out text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.comparison import Text
from trtcoder.calib.text.examples import EncodedText
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.graph_probe import GraphProbe
from trtcoder.export.parity.meter import ParityMeter
from trtcoder.export.reference.model import TransformersReference

# Takes token ids of sequences, returns logits [T, V] of each.
Logits = Callable[[Sequence[Sequence[int]]], Iterable[NDArray[np.float32]]]


class Judge:
    """The reference's logits on held-out sequences, and the comparison with another's."""

    def __init__(self, checkpoint: Checkpoint, sequences: Sequence[EncodedText]) -> None:
        """Run transformers on every sequence."""
        self._config = checkpoint.config
        self._sequences = sequences
        ids = [np.array(sequence.ids) for sequence in sequences]
        self._traces = TransformersReference(checkpoint).run(ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence.ids) for sequence in self._sequences)

    def compare_engine(self, probe: GraphProbe) -> dict[str, Any]:
        """Return the metrics of an engine, as `compare` does."""
        return self.compare(lambda sequences: (trace.logits for trace in probe.run_all(sequences)))

    def compare(self, logits: Logits) -> dict[str, Any]:
        """Return the metrics of a model, given what computes its logits.

        KL in nats and top-1 agreement are over all positions, perplexity over the tokens that
        count: all of a plain text, the middle of a FIM example, the answer of a chat.
        ``perplexity_change`` is relative to the reference's over the tokens of all kinds.
        ``by_sequence`` has each sequence's sum of the KL, the tokens that count, and the nats that
        they cost more than in the reference: what a resampling needs.
        """
        meter = self._meter()
        by_sequence: dict[str, list[float]] = {"kl": [], "tokens": [], "nats": []}
        found = logits([sequence.ids for sequence in self._sequences])
        for sequence, trace, values in zip(self._sequences, self._traces, found, strict=True):
            alone = self._meter()
            for each in (meter, alone):
                each.add(
                    sequence.kind,
                    sequence.ids,
                    sequence.scored_from,
                    sequence.scored_bytes,
                    trace,
                    # Only logits are compared: llama.cpp does not show what is inside it.
                    dataclasses.replace(trace, logits=values),
                )
            one = alone.report()
            by_sequence["kl"].append(one.logits.kl_mean * one.logits.positions)
            by_sequence["tokens"].append(sum(text.tokens for text in one.texts))
            by_sequence["nats"].append(sum(map(_more_nats, one.texts)))
        report = meter.report()
        return {
            "kl_mean": report.logits.kl_mean,
            "kl_p99": report.logits.kl_p99,
            "kl_max": report.logits.kl_max,
            "top1_agreement": report.logits.top1_agreement,
            "perplexity_change": _change(report.texts),
            "texts": [_text(text) for text in report.texts],
            "by_sequence": by_sequence,
        }

    def _meter(self) -> ParityMeter:
        # The precision only chooses gates, and no verdict is asked for here.
        return ParityMeter(self._config, "int4")


def _text(text: Text) -> dict[str, Any]:
    change = text.engine_perplexity / text.reference_perplexity - 1
    return {**dataclasses.asdict(text), "perplexity_change": change}


def _change(texts: Sequence[Text]) -> float:
    return math.expm1(sum(map(_more_nats, texts)) / sum(text.tokens for text in texts))


def _more_nats(text: Text) -> float:
    return text.tokens * math.log(text.engine_perplexity / text.reference_perplexity)
