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

from trtcoder.runtime.server.document.errors import READING
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["health"])

# Our name, vLLM's where the meaning is the same, what it is, and the counter's attribute.
_GAUGES = (
    ("requests_running", "num_requests_running", "Answers that are computed.", "num_running"),
    ("requests_waiting", "num_requests_waiting", "Answers that wait.", "num_waiting"),
    ("cache_usage", "kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", "cache_usage"),
)
_COUNTERS = (
    ("prompt_tokens", "prompt_tokens", "Prompt tokens.", "asked_tokens"),
    ("generation_tokens", "generation_tokens", "Tokens sampled.", "generated_tokens"),
    ("preemptions", "num_preemptions", "Answers that lost their blocks.", "num_preemptions"),
    ("prefix_cache_queries", "prefix_cache_queries", "Prompt tokens looked up.", "asked_tokens"),
    ("prefix_cache_hits", "prefix_cache_hits", "Prompt tokens found.", "cached_tokens"),
    ("drafts", "spec_decode_num_drafts", "Drafts that a step verified.", "drafts"),
    ("draft_tokens", "spec_decode_num_draft_tokens", "Tokens in them.", "drafted_tokens"),
    (
        "accepted_tokens",
        "spec_decode_num_accepted_tokens",
        "Drafted tokens that came.",
        "accepted_tokens",
    ),
    ("steps", None, "Forward passes.", "steps"),
    ("requests", None, "Requests queued.", "requests"),
    ("requests_failed", None, "Requests that ended with an error.", "failed"),
)


class EngineCollector(Collector):
    """Reads the counters of all engines."""

    def __init__(self, engines: Engines, *, vllm: bool) -> None:
        self._engines = engines
        self._vllm = vllm

    def collect(self) -> Iterable[Metric]:
        """Yield one family a name, with a value for each engine."""
        for kind, table in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for ours, theirs, text, attribute in table:
                names = [f"trtcoder:{ours}"]
                if theirs is not None and self._vllm:
                    names.append(f"vllm:{theirs}")
                for name in names:
                    family = kind(name, text, labels=["model_name"])
                    for served in self._engines.all():
                        core = served.llm.engine.thread.core
                        owner = core if hasattr(core, attribute) else core.stats
                        family.add_metric([served.name], float(getattr(owner, attribute)))
                    yield family
        yield from self._finished()
        if self._vllm:
            yield self._accepted_at()
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
