"""Traces of a reference and of engines that miss it in known ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.comparison import Comparison
from trtcoder.export.parity.meter import ParityMeter
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

GREEDY = DeepseekV2Config.from_dict(tiny_config())
GROUPED = DeepseekV2Config.from_dict(tiny_grouped_config())
DENSE = DeepseekV2Config.from_dict(tiny_config(n_routed_experts=None))
TOKENS = 12
IDS = list(range(TOKENS))

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Trace:
    logits: Floats
    hidden: Floats
    router_probabilities: Floats


def random_trace(config: DeepseekV2Config = GREEDY, tokens: int = TOKENS, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    moe = sum(config.is_moe_layer(layer) for layer in range(config.num_hidden_layers))
    scores = np.exp(rng.normal(size=(moe, tokens, config.n_routed_experts)))
    return Trace(
        logits=rng.normal(size=(tokens, config.vocab_size)).astype(np.float32),
        hidden=rng.normal(size=(config.num_hidden_layers, tokens, config.hidden_size)).astype(
            np.float32
        ),
        router_probabilities=(scores / scores.sum(-1, keepdims=True)).astype(np.float32),
    )


def compare(
    reference: Trace,
    engine: Trace,
    config: DeepseekV2Config = GREEDY,
    precision: str = "fp32",
    max_kl: float | None = None,
) -> Comparison:
    meter = ParityMeter(config, precision, max_kl=max_kl)
    meter.add("plain", IDS, 1, 30, reference, engine)
    return meter.report()


def changed(values: Floats, index: Any, value: Any) -> Floats:
    copy = values.copy()
    copy[index] = value
    return copy


def failed_gates(report: Comparison) -> list[str]:
    return [gate.name for gate in report.gates if gate.passed is False]


def with_probabilities(row: Floats) -> Trace:
    """A trace whose every token has the router's probabilities ``row``."""
    trace = random_trace()
    shape = trace.router_probabilities.shape
    return replace(trace, router_probabilities=np.broadcast_to(row, shape).astype(np.float32))


def noisy(trace: Trace, scale: float) -> Trace:
    rng = np.random.default_rng(2)
    noise = (scale * rng.normal(size=trace.logits.shape)).astype(np.float32)
    return replace(trace, logits=trace.logits + noise)


def constant(trace: Trace) -> Trace:
    """The engine that ignores the context: the mean of the reference's distributions."""
    share = np.exp(trace.logits.astype(np.float64))
    share /= share.sum(-1, keepdims=True)
    fixed = np.broadcast_to(np.log(share.mean(0)), share.shape)
    return replace(trace, logits=fixed.astype(np.float32))
