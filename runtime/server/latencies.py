"""Histograms of what requests cost, under our names and under vLLM's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import HistogramMetricFamily, Metric

from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.work import Work

# From a demo's token to an agent's prompt on a few cores: seconds.
_SECONDS = tuple(
    scale * step for scale in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0) for step in (1.0, 2.5, 5.0)
)
_TOKENS = tuple(float(2**power) for power in range(0, 18))
_FEW = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One histogram: its name is vLLM's, whose meaning it has; ``read`` gives None where none is.

    Its buckets are ours.
    """

    name: str
    text: str
    buckets: Sequence[float]
    read: Callable[[Usage, SamplingParams], float | None]


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _per_token(usage: Usage, params: SamplingParams) -> float | None:
    gaps = usage.completion_tokens - params.n
    return usage.decode_seconds * params.n / gaps if gaps > 0 else None


_KINDS = (
    _Kind("time_to_first_token_seconds", "From the queue to the first token.", _SECONDS,
          lambda usage, _: _between(usage.queued, usage.first_token)),
    _Kind("request_time_per_output_token_seconds", "Between tokens, a request's mean.", _SECONDS,
          _per_token),
    _Kind("e2e_request_latency_seconds", "From the queue to the last token.", _SECONDS,
          lambda usage, _: _between(usage.queued, usage.last_token)),
    _Kind("request_queue_time_seconds", "In the queue.", _SECONDS,
          lambda usage, _: _between(usage.queued, usage.started)),
    _Kind("request_inference_time_seconds", "From the first step to the last token.", _SECONDS,
          lambda usage, _: _between(usage.started, usage.last_token)),
    _Kind("request_prefill_time_seconds", "From the first step to the first token.", _SECONDS,
          lambda usage, _: _between(usage.started, usage.first_token)),
    _Kind("request_decode_time_seconds", "From the first token to the last.", _SECONDS,
          lambda usage, _: _between(usage.first_token, usage.last_token)),
    _Kind("request_prompt_tokens", "Tokens of a prompt.", _TOKENS,
          lambda usage, _: usage.prompt_tokens),
    _Kind("request_generation_tokens", "Tokens sampled for a prompt.", _TOKENS,
          lambda usage, _: usage.completion_tokens),
    _Kind("request_params_n", "Answers asked for.", _FEW, lambda _, params: params.n),
    _Kind("request_params_max_tokens", "Most tokens of an answer.", _TOKENS,
          lambda _, params: params.max_tokens),
)  # fmt: skip


@dataclass(slots=True)
class _Histogram:
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True)
class Latencies:
    """The histograms of all engines. For the event loop's thread."""

    _by_model: dict[str, list[_Histogram]] = field(default_factory=dict)

    def note(self, work: Work) -> None:
        """Count what a request that has ended cost; one that never ran is not counted."""
        if work.params is None:
            return
        histograms = self._by_model.setdefault(
            work.model, [_Histogram([0] * (len(kind.buckets) + 1)) for kind in _KINDS]
        )
        for generation in work.generations:
            if generation.usage.started is None:
                continue
            for kind, histogram in zip(_KINDS, histograms, strict=True):
                value = kind.read(generation.usage, work.params)
                if value is not None:
                    histogram.counts[bisect_left(kind.buckets, value)] += 1
                    histogram.total += value

    def collect(self, *, vllm: bool) -> Iterable[Metric]:
        """Yield one family a name, with a histogram for each engine."""
        for number, kind in enumerate(_KINDS):
            for prefix in ("trtcoder:", *(("vllm:",) if vllm else ())):
                family = HistogramMetricFamily(
                    f"{prefix}{kind.name}", kind.text, labels=["model_name"]
                )
                for model, histograms in self._by_model.items():
                    histogram = histograms[number]
                    family.add_metric([model], _buckets(kind, histogram), histogram.total)
                yield family


def _buckets(kind: _Kind, histogram: _Histogram) -> list[tuple[str, float]]:
    """Return how many values each bucket and those below it hold."""
    found, count = [], 0
    for edge, more in zip((*map(str, kind.buckets), "+Inf"), histogram.counts, strict=True):
        count += more
        found.append((edge, float(count)))
    return found
