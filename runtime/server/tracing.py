"""One OpenTelemetry span a request, with what it cost and nothing of what it said.

A span is that of a server's HTTP request with the attributes of the conventions for generative AI.
Written by hand: an instrumentation of the framework knows routes and no tokens, and makes a span of
every piece that a stream sends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trtcoder import __version__
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.server.work import Work

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_CHAT = ("chat", "messages", "responses")
_PATIENCE = 3.0  # seconds
# Attributes of the conventions, and ours for the same.
_ASKED = {
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.choice.count": "n",
}


class Tracing:
    """Makes spans, and sends them from a thread of its own."""

    def __init__(self, endpoint: str | None) -> None:
        """Begin; what is not given is OpenTelemetry's own, from the environment."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # The environment goes first: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
        resource = Resource.create()
        ours = {SERVICE_VERSION: __version__}
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            ours[SERVICE_NAME] = "trtcoder"
        self._provider: TracerProvider = TracerProvider(
            resource=resource.merge(Resource(ours)), shutdown_on_exit=False
        )
        address = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
        # A collector that is away holds up the server's end for no longer.
        patience = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else _PATIENCE
        exporter = OTLPSpanExporter(endpoint=address, timeout=patience)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("trtcoder", __version__)

    def begin(self, scope: Scope) -> Span:
        """Begin the span of a request, below the one that its ``traceparent`` names."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = dict(Headers(scope=scope).items())
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        return self._tracer.start_span(
            f"{scope['method']} {scope['path']}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


class Traced:
    """ASGI middleware: a span for every request that asks for work, which are those that POST."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and tell what it was."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        span = self._tracing.begin(scope)
        state = scope.setdefault("state", {})
        work = Work.of(state)
        state["trace"] = f"{span.get_span_context().trace_id:032x}"
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            _describe(span, scope, status, work)
            span.end()


def _attributes(work: Work, path: str) -> dict[str, Any]:
    """Return the span's attributes; none where nothing was generated."""
    if work.params is None:
        return {}
    usages = [generation.usage for generation in work.generations]
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(path),
        "gen_ai.provider.name": "trtcoder",
        "gen_ai.request.model": work.model,
        "gen_ai.response.model": work.model,
        "gen_ai.response.finish_reasons": [
            reason for generation in work.generations for reason in _reasons(generation)
        ],
        "gen_ai.usage.input_tokens": sum(each.prompt_tokens for each in usages),
        "gen_ai.usage.cache_read.input_tokens": sum(each.cached_tokens for each in usages),
        "gen_ai.usage.output_tokens": sum(each.completion_tokens for each in usages),
    }
    for name, field in _ASKED.items():
        value = getattr(work.params, field)
        if value is not None:
            found[name] = value
    queued = min(each.queued for each in usages)
    firsts = [each.first_token for each in usages if each.first_token is not None]
    starts = [each.started for each in usages if each.started is not None]
    if firsts:
        # Seconds, as the metric of this name.
        found["gen_ai.server.time_to_first_token"] = min(firsts) - queued
    if starts:
        found["trtcoder.queue_seconds"] = min(starts) - queued
    return found


def _describe(span: Span, scope: Scope, status: int, work: Work) -> None:
    from opentelemetry.trace import StatusCode

    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("trtcoder.request_id", scope["state"].get("request_id", ""))
    span.set_attributes(_attributes(work, scope["path"]))
    failure = work.failure
    if failure is not None or status >= 500:
        # The class alone: a message could quote what was asked.
        span.set_attribute("error.type", type(failure).__name__ if failure else str(status))
        span.set_status(StatusCode.ERROR)


def _operation(path: str) -> str:
    return "chat" if any(word in path for word in _CHAT) else "text_completion"


def _reasons(generation: AsyncGeneration) -> list[str]:
    left = "error" if generation.failure else "cancelled"
    found = [generation.finish_reasons.get(i, left) for i in range(generation.num_answers)]
    return ["length" if reason == "context" else reason for reason in found]
