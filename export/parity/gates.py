"""The gates that an engine is held to, by how its weights are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trtcoder.bundle.comparison import Gate, Layer, Logits
from trtcoder.bundle.quality import FLOOR, GOOD, Quality, lost_context

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
    "nvfp4": {"KL mean": 5e-2},
    "int4": {},
    "int4+fp8": {},
    "mixed": {},
}


def judge(
    precision: str,
    logits: Logits,
    layers: tuple[Layer, ...],
    non_finite: Mapping[str, int],
    max_kl: float | None,
    decode_error: float | None = None,
) -> tuple[str, Quality, tuple[Gate, ...]]:
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
        Gate(name, value, limit, None if limit is None else _within(value, limit))
        for name, value in metrics.items()
        for limit in [limits.get(name)]
    ]
    nats, constant = logits.context_nats, logits.constant_top1
    lost = lost_context(logits.kl_mean, math.nan if nats is None else nats)
    # Half of what a fixed answer reaches: noise does not go so far, not even on short text.
    other, most = 1 - logits.top1_agreement, 1 - (math.nan if constant is None else constant) / 2
    floors = [
        Gate("share of the context lost", lost, FLOOR, _within(lost, FLOOR)),
        Gate("share of other top tokens", other, most, _within(other, most)),
    ]
    missed = any(gate.passed is False for gate in gates)
    gates += floors
    if max_kl is not None:
        gates.append(
            Gate("KL mean, as asked", logits.kl_mean, max_kl, _within(logits.kl_mean, max_kl))
        )
    # A place with values that are not finite is a gate of its own, so that the error names it.
    gates += [
        Gate(f"values not finite in {place}", float(count), 0.0, False)
        for place, count in non_finite.items()
    ] or [Gate("values not finite", 0.0, 0.0, True)]
    quality: Quality = "good" if lost <= GOOD and not missed else "poor"
    if non_finite or any(gate.passed is False for gate in floors):
        quality = "broken"
    failed = any(gate.passed is False for gate in gates)
    return ("failed" if failed else "passed"), quality, tuple(gates)


def _within(value: float, limit: float) -> bool:
    return value <= limit  # false for NaN
