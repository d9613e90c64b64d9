"""What a comparison with the reference found, the gates it is held to, and its table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtcoder.bundle.quality import FLOOR, GOOD, Quality, describe, lost_context
from trtcoder.errors import ParityError

# Limits for each storage of the weights, by the metrics that `judge` names.
GATES: dict[str, dict[str, float]] = {
    "fp32": {
        "relative logit error": 1e-4,
        "KL max": 1e-7,
        "router disagreements": 0.0,
        "share of positions after a router tie": 0.5,
        "decode against prefill": 1e-4,
    },
    "int8": {"KL mean": 1e-3},
    "fp8": {"KL mean": 1e-2},
    "int4": {},
    "mixed": {},
}


@dataclass(frozen=True, slots=True)
class LayerParity:
    """One layer.

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
    router_agreement: float | None = None
    router_ties: int | None = None
    router_wrong: int | None = None
    router_after_tie: int | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between ascending ``edges`` (one more than there are ``counts``)."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogitParity:
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
    kl_histogram: Histogram
    top1_agreement: float
    top1_ambiguous: int
    top1_wrong: int
    after_tie: int
    judged_relative_error: float
    judged_kl_max: float
    context_nats: float
    constant_top1: float


@dataclass(frozen=True, slots=True)
class TextParity:
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


@dataclass(frozen=True, slots=True)
class GateResult:
    """One metric held to a limit; ``limit`` and ``passed`` are None where it is only stated."""

    name: str
    measured: float
    limit: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The outcome: metrics, gates, and the verdict "passed" or "failed".

    ``quality`` says the same for people: "good", "poor" or "broken", see `trtcoder.bundle.quality`.
    """

    precision: str
    verdict: str
    quality: Quality
    gates: tuple[GateResult, ...]
    logits: LogitParity
    layers: tuple[LayerParity, ...]
    texts: tuple[TextParity, ...]

    @property
    def finite(self) -> bool:
        """Whether every value that was compared is finite."""
        return not any(
            gate.passed is False for gate in self.gates if gate.name.startswith("values not finite")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a value that is not finite becomes null."""
        plain: dict[str, Any] = _finite_or_none(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ParityReport:
        """Read what `to_dict` gave; other keys, such as those of a certificate, are left out.

        Raises:
            ParityError: a key is missing or malformed.
        """
        try:
            return cls(
                precision=str(data["precision"]),
                verdict=str(data["verdict"]),
                quality=data["quality"],
                gates=tuple(GateResult(**_measured(gate)) for gate in data["gates"]),
                logits=_logits(data["logits"]),
                layers=tuple(LayerParity(**_layer(layer)) for layer in data["layers"]),
                texts=tuple(TextParity(**_text(text)) for text in data["texts"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ParityError(
                f"parity report: malformed ({error}); run `trtcoder verify` again"
            ) from error


def judge(
    precision: str,
    logits: LogitParity,
    layers: tuple[LayerParity, ...],
    non_finite: Mapping[str, int],
    max_kl: float | None,
    decode_error: float | None = None,
) -> tuple[str, Quality, tuple[GateResult, ...]]:
    """Return verdict, quality and every gate; ``non_finite`` counts bad values by their place."""
    limits = GATES[precision]
    metrics = {
        "relative logit error": (
            logits.judged_relative_error
            if "relative logit error" in limits
            else logits.relative_error
        ),
        "KL mean": logits.kl_mean,
        "KL max": logits.judged_kl_max if "KL max" in limits else logits.kl_max,
        "router disagreements": float(sum(layer.router_wrong or 0 for layer in layers)),
        "share of positions after a router tie": logits.after_tie / logits.positions,
    }
    if decode_error is not None:
        metrics["decode against prefill"] = decode_error
    gates = [
        GateResult(name, value, limit, None if limit is None else _within(value, limit))
        for name, value in metrics.items()
        for limit in [limits.get(name)]
    ]
    lost = lost_context(logits.kl_mean, logits.context_nats)
    # Half of what a fixed answer reaches: noise does not go so far, not even on short text.
    other, most = 1 - logits.top1_agreement, 1 - logits.constant_top1 / 2
    floors = [
        GateResult("share of the context lost", lost, FLOOR, _within(lost, FLOOR)),
        GateResult("share of other top tokens", other, most, _within(other, most)),
    ]
    missed = any(gate.passed is False for gate in gates)
    gates += floors
    if max_kl is not None:
        gates.append(
            GateResult("KL mean, as asked", logits.kl_mean, max_kl, _within(logits.kl_mean, max_kl))
        )
    # A place with values that are not finite is a gate of its own, so that the error names it.
    gates += [
        GateResult(f"values not finite in {place}", float(count), 0.0, False)
        for place, count in non_finite.items()
    ] or [GateResult("values not finite", 0.0, 0.0, True)]
    quality: Quality = "good" if lost <= GOOD and not missed else "poor"
    if non_finite or any(gate.passed is False for gate in floors):
        quality = "broken"
    failed = any(gate.passed is False for gate in gates)
    return ("failed" if failed else "passed"), quality, tuple(gates)


def render_table(report: ParityReport) -> str:
    """Return the report as plain text, about 80 columns wide, a line for each layer."""
    logits = report.logits
    lines = ["layer  hidden error: mean      max    router: agree   ties  after  wrong"]
    for layer in report.layers:
        line = f"{layer.layer:5d}        {layer.hidden_mean:12.2e} {layer.hidden_max:8.2e}"
        if layer.router_agreement is not None:
            line += f"        {layer.router_agreement:8.3%} {layer.router_ties:6d} "
            line += f"{layer.router_after_tie:6d} {layer.router_wrong:6d}"
        lines.append(line)
    lines += [
        "",
        f"logits of {logits.positions} positions: max-abs {logits.max_abs:.2e}, "
        f"relative {logits.relative_error:.2e}",
        f"KL (nats): mean {logits.kl_mean:.3e}, p99 {logits.kl_p99:.3e}, max {logits.kl_max:.3e}",
        f"top-1: {logits.top1_agreement:.3%} agree, {logits.top1_ambiguous} ambiguous, "
        f"{logits.top1_wrong} wrong",
        "",
        "text    tokens   perplexity: reference   engine   nats/byte: reference   engine",
    ]
    lines += [
        f"{text.kind:7s} {text.tokens:6d}   {text.reference_perplexity:21.4f} "
        f"{text.engine_perplexity:8.4f}   {_shown(text.reference_nats_per_byte):>20s} "
        f"{_shown(text.engine_nats_per_byte):>8s}"
        for text in report.texts
    ]
    lines.append("")
    for gate in report.gates:
        outcome = {True: "pass", False: "FAIL", None: "stated"}[gate.passed]
        limit = "no limit" if gate.limit is None else f"limit {shown(gate, gate.limit)}"
        lines.append(f"{outcome:6s} {gate.name}: {shown(gate, gate.measured)} ({limit})")
    lost = lost_context(logits.kl_mean, logits.context_nats)
    lines += [
        f"verdict for {report.precision}: {report.verdict}",
        describe(report.quality, lost),
    ]
    return "\n".join(lines)


def shown(gate: GateResult, value: float) -> str:
    """Return a gate's value or limit: a share in percent, a count in full."""
    if gate.name.startswith("share of"):
        return f"{value:.3g}" if not math.isfinite(value) else f"{value:.2%}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def _within(value: float, limit: float) -> bool:
    return value <= limit  # false for NaN


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan_for_null(data: Mapping[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        key: math.nan if value is None and key not in optional else value
        for key, value in data.items()
    }


def _logits(data: Mapping[str, Any]) -> LogitParity:
    histogram = data["kl_histogram"]
    counted = Histogram(tuple(histogram["edges"]), tuple(histogram["counts"]))
    return LogitParity(**{**_nan_for_null(data), "kl_histogram": counted})


def _measured(data: Mapping[str, Any]) -> dict[str, Any]:
    return _nan_for_null(data, ("limit", "passed"))


def _layer(data: Mapping[str, Any]) -> dict[str, Any]:
    return _nan_for_null(
        data, ("router_agreement", "router_ties", "router_wrong", "router_after_tie")
    )


def _text(data: Mapping[str, Any]) -> dict[str, Any]:
    return _nan_for_null(data, ("reference_nats_per_byte", "engine_nats_per_byte"))
