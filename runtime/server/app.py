"""The application: routes, errors, and what every request passes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from trtcoder import __version__
from trtcoder.errors import TrtcoderError
from trtcoder.runtime.server import health, listing, metrics, mistral, root, tokens
from trtcoder.runtime.server.anthropic import messages
from trtcoder.runtime.server.document.document import describe
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.errors import on_error
from trtcoder.runtime.server.guard import Guard
from trtcoder.runtime.server.llama_cpp import endpoints as llama_cpp
from trtcoder.runtime.server.llama_cpp import props as llama_cpp_props
from trtcoder.runtime.server.ollama import endpoints as ollama
from trtcoder.runtime.server.ollama import models as ollama_models
from trtcoder.runtime.server.openai import chat, completions, models, responses
from trtcoder.runtime.server.page import report
from trtcoder.runtime.server.page import routes as page
from trtcoder.runtime.server.page.report import Reports
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.settings import ServerSettings
from trtcoder.runtime.server.trace_target import is_traced
from trtcoder.runtime.server.tracing import Traced, Tracing

ROUTERS = (
    models,
    completions,
    chat,
    responses,
    messages,
    mistral,
    llama_cpp,
    llama_cpp_props,
    ollama,
    ollama_models,
    tokens,
    health,
    metrics,
    listing,
    root,
)


def create_app(engines: Engines, settings: ServerSettings) -> FastAPI:
    """Return the application over ``engines``, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.shield(engines.close())
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="trtcoder",
        version=__version__,
        description="Chat, completion and filling in the middle from a verified engine.",
        lifespan=lifespan,
        # FastAPI's own pages are scripts from another host.
        docs_url=None,
        redoc_url=None,
    )
    tracing = Tracing(settings.otel_endpoint) if is_traced(settings.otel_endpoint) else None
    service = app.state.service = Service(engines, settings)
    reports = app.state.reports = Reports(needs_pass=bool(settings.api_keys))
    for module in (*ROUTERS, *((page, report) if settings.page else ())):
        app.include_router(module.router)
    describe(app, has_keys=bool(settings.api_keys))
    for kind in (HTTPException, TrtcoderError, RequestValidationError, Exception):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(
        Guard,
        settings=settings,
        is_draining=lambda: engines.is_draining,
        has_pass=reports.admits,
        note=service.latencies.note,
    )
    # Around the guard: a browser asks without its key whether it may, and reads refusals too.
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    if tracing is not None:
        app.add_middleware(Traced, tracing=tracing)
    return app
