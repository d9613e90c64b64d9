"""Whether the server lives, and whether it can take requests."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from trtcoder.runtime.server.document.others import Health
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["health"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": Health, "description": text}
    for status, text in {200: "Requests are taken.", 503: "They are not."}.items()
}
_LIVES: dict[int | str, dict[str, Any]] = {
    status: {"model": Health, "description": text}
    for status, text in {200: "The engines run.", 503: "One has failed; start again."}.items()
}


@router.get("/health/live", responses=_LIVES)
@router.get("/ping", include_in_schema=False)
async def live(request: Request) -> JSONResponse:
    """Answer 200 unless only another start helps: an engine's thread has failed."""
    for served in Service.of(request).engines.all():
        if failure := served.llm.engine.thread.failure:
            reason = f"the engine {served.name} has ended: {failure!r}"
            return JSONResponse({"status": "not live", "reason": reason}, 503)
    return JSONResponse({"status": "live"})


@router.get("/health/ready", responses=_ANSWERS)
@router.get("/health", responses=_ANSWERS)
@router.get("/v1/health", include_in_schema=False)
async def ready(request: Request) -> JSONResponse:
    """Answer 200 while requests are taken: loaded, not draining, no engine dead or stuck."""
    problem = problem_of(Service.of(request))
    if problem is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "not ready", "reason": problem}, 503)


def problem_of(service: Service) -> str | None:
    """Return why requests are not taken; None where they are."""
    if service.engines.is_draining:
        return "the server is shutting down"
    served = service.engines.all()
    if not served:
        return "no engine is loaded yet"
    for each in served:
        thread = each.llm.engine.thread
        if not thread.is_alive:
            return f"the engine {each.name} has ended: {thread.failure!r}"
        busy = thread.core.busy_since
        if busy is not None and time.monotonic() - busy > service.settings.stuck_seconds:
            return f"the engine {each.name} is stuck in a step"
    return None


@router.get("/version")
async def version() -> dict[str, Any]:
    """Return the version."""
    from trtcoder import __version__

    return {"version": __version__}
