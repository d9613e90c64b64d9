"""What comparing an engine with the reference found: a part of its certificate."""

from __future__ import annotations

from dataclasses import dataclass

from trtcoder.bundle.quality import lost_context


@dataclass(frozen=True, slots=True)
class Gate:
    """One metric; ``limit`` and ``passed`` are None where it is only stated."""

    name: str
    measured: float
    limit: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Positions by their KL: ``edges`` are log10 of nats, one more than ``counts``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """The logits of all positions.

    Attributes:
        positions: how many were compared.
        max_abs: largest difference of two logits.
        relative_error: the largest over positions of ``max |difference| / max |reference|``.
        kl_mean: KL(reference || engine) in nats, mean over positions.
        kl_p99: its 99th percentile.
        kl_max: its largest value.
        kl_histogram: positions by the log10 of their KL; the first bin has all below it too.
        top1_agreement: share of positions whose most probable token is the same.
        top1_ambiguous: positions where it is not, and the reference's two logits are a near tie.
        top1_wrong: positions where it is not, and they are none.
        after_tie: positions from a sequence's first router tie that went the other way. Another
            expert of equal rank gives other values there, which are no error, so that the gates
            on single positions leave them out.
        judged_relative_error: ``relative_error`` of the other positions, NaN if there are none.
        judged_kl_max: ``kl_max`` of the other positions.
        context_nats: what the reference's predictions owe to their context: their mean KL from the
            one distribution that is nearest to all of them, in nats.
        constant_top1: top-1 agreement of an engine that always gives that distribution.
    """

    positions: int
    max_abs: float
    relative_error: float
    kl_mean: float
    kl_p99: float
    kl_max: float
    kl_histogram: Histogram | None = None
    top1_agreement: float
    top1_ambiguous: int
    top1_wrong: int
    after_tie: int
    judged_relative_error: float
    judged_kl_max: float
    context_nats: float | None = None
    constant_top1: float | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    Attributes:
        layer: from 0.
        hidden_mean: mean over tokens of ``||engine - reference|| / ||reference||`` (2-norm) of the
            residual stream after the layer.
        hidden_max: the largest of them.
        router_agreement: share of tokens that go to the same set of experts; None without experts.
        router_ties: tokens whose experts differ where the reference's scores tie.
        router_wrong: tokens whose experts differ without a tie.
        router_after_tie: tokens whose experts differ, where an earlier layer's differed in a tie at
            the token or before it.
    """

    layer: int
    hidden_mean: float
    hidden_max: float
    router_agreement: float | None
    router_ties: int | None
    router_wrong: int | None
    router_after_tie: int | None


@dataclass(frozen=True, slots=True)
class Text:
    """How well both predict held-out text of one kind (plain, fim, chat, ...).

    Perplexities are per token; the nats per byte (None without bytes) compare models whose
    tokenizers differ.
    """

    kind: str
    tokens: int
    bytes: int
    reference_perplexity: float
    engine_perplexity: float
    reference_nats_per_byte: float | None
    engine_nats_per_byte: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison with the reference found, and how that stands against the gates.

    ``verdict`` is "passed" or "failed" ("measured" in old certificates). ``quality`` says the same
    for people: "good", "poor" or "broken", see `trtcoder.bundle.quality`.
    """

    precision: str
    verdict: str
    quality: str | None = None
    gates: tuple[Gate, ...]
    logits: Logits
    layers: tuple[Layer, ...]
    texts: tuple[Text, ...]

    @property
    def finite(self) -> bool:
        """Whether every value that was compared is finite."""
        return not any(
            gate.passed is False for gate in self.gates if gate.name.startswith("values not finite")
        )

    @property
    def lost_context(self) -> float | None:
        """The share of the context that is lost; None where the certificate does not say it."""
        logits = self.logits
        if logits.context_nats is None:
            return None
        return lost_context(logits.kl_mean, logits.context_nats)
