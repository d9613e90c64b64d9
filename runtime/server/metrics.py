"""`/metrics` for Prometheus: counters of each engine, under our names and under vLLM's.

The values are read from the engine's counters when they are asked for; nothing is counted twice.
Histograms count the requests that have ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from trtcoder.runtime.engine.figures import COUNTERS, GAUGES
from trtcoder.runtime.server.document.errors import READING
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["health"])

# How vLLM calls the ends of answers that it has other names for.
_VLLM_REASONS = {"cancelled": "abort", "context": "length"}


class EngineCollector(Collector):
    """Reads the counters of all engines."""

    def __init__(self, service: Service) -> None:
        self._engines = service.engines
        self._latencies = service.latencies
        self._vllm = service.settings.vllm_metrics

    def collect(self) -> Iterable[Metric]:
        """Yield one family a name, with a value for each engine."""
        for kind, figures in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for figure in figures:
                names = [f"trtcoder:{figure.name}"]
                if self._vllm:
                    names += [f"vllm:{name}" for name in figure.vllm]
                for name in names:
                    family = kind(name, figure.text, labels=["model_name"])
                    for served in self._engines.all():
                        value = figure.value(served.llm.engine.thread.core)
                        family.add_metric([served.name], value)
                    yield family
        yield from self._finished()
        yield from self._latencies.collect(vllm=self._vllm)
        if self._vllm:
            yield self._accepted_at()
            yield self._cache_config()

    def _finished(self) -> Iterable[Metric]:
        families: dict[str, dict[str, str]] = {"trtcoder:requests_finished": {}}
        if self._vllm:
            families["vllm:request_success"] = _VLLM_REASONS
        for name, other_names in families.items():
            family = CounterMetricFamily(
                name, "Answers by their end.", labels=["model_name", "finished_reason"]
            )
            for served in self._engines.all():
                counts: Counter[str] = Counter()
                for reason, count in dict(served.llm.engine.thread.core.stats.finished).items():
                    counts[other_names.get(reason, reason)] += count
                for reason, count in counts.items():
                    family.add_metric([served.name, reason], float(count))
            yield family

    def _accepted_at(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens that came, by their place in a draft.",
            labels=["model_name", "position"],
        )
        for served in self._engines.all():
            counts = list(served.llm.engine.thread.core.stats.accepted_at)
            for place, count in enumerate(counts):
                family.add_metric([served.name, str(place)], float(count))
        return family

    def _cache_config(self) -> Metric:
        family = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Blocks of the cache.",
            labels=[
                "model_name",
                "block_size",
                "num_gpu_blocks",
                "kv_cache_size_tokens",
                "kv_cache_max_concurrency",
            ],
        )
        for served in self._engines.all():
            cache = served.llm.engine.thread.core.scheduler.cache
            size = cache.block_size * cache.num_blocks
            most = f"{size / served.llm.context:.2f}"
            labels = [served.name, str(cache.block_size), str(cache.num_blocks), str(size), most]
            family.add_metric(labels, 1.0)
        return family


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={status: {"description": text} for status, text in READING.items()},
)
async def metrics(request: Request) -> Response:
    """Return all counters as text."""
    service = Service.of(request)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(service))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")
