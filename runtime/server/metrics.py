"""`/metrics` for Prometheus: counters of each engine, under our names and under vLLM's.

The values are read from the engine's counters when they are asked for; nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from trtcoder.runtime.engine.figures import COUNTERS, GAUGES
from trtcoder.runtime.server.document.errors import READING
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["health"])


class EngineCollector(Collector):
    """Reads the counters of all engines."""

    def __init__(self, engines: Engines, *, vllm: bool) -> None:
        self._engines = engines
        self._vllm = vllm

    def collect(self) -> Iterable[Metric]:
        """Yield one family a name, with a value for each engine."""
        for kind, figures in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for figure in figures:
                names = [f"trtcoder:{figure.name}"]
                if figure.vllm is not None and self._vllm:
                    names.append(f"vllm:{figure.vllm}")
                for name in names:
                    family = kind(name, figure.text, labels=["model_name"])
                    for served in self._engines.all():
                        value = figure.value(served.llm.engine.thread.core)
                        family.add_metric([served.name], value)
                    yield family
        yield from self._finished()
        if self._vllm:
            yield self._cache_config()

    def _finished(self) -> Iterable[Metric]:
        for name in ("trtcoder:requests_finished", *(["vllm:request_success"] * self._vllm)):
            family = CounterMetricFamily(
                name, "Answers by their end.", labels=["model_name", "finished_reason"]
            )
            for served in self._engines.all():
                finished = dict(served.llm.engine.thread.core.stats.finished)
                for reason, count in finished.items():
                    family.add_metric([served.name, reason], float(count))
            yield family

    def _cache_config(self) -> Metric:
        family = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Blocks of the cache.",
            labels=["model_name", "block_size", "num_gpu_blocks"],
        )
        for served in self._engines.all():
            cache = served.llm.engine.thread.core.scheduler.cache
            family.add_metric([served.name, str(cache.block_size), str(cache.num_blocks)], 1.0)
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
    registry.register(EngineCollector(service.engines, vllm=service.settings.vllm_metrics))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")
