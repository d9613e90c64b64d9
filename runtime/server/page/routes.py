"""`/page/…`, the files, and `/about`, what the page says of the engines."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from trtcoder import __version__
from trtcoder.runtime.server.page.assets import assets
from trtcoder.runtime.server.page.certificate import certificate_lines
from trtcoder.runtime.server.page.report import Reports
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["page"])


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def asset(name: str, request: Request) -> Response:
    """Return a file of the page."""
    found = assets().get(name)
    if found is None:
        raise HTTPException(404)
    return found.response(request)


@router.get("/favicon.ico", include_in_schema=False)
async def icon(request: Request) -> Response:
    """Return the page's icon where browsers look for one, as beside a report."""
    return assets()["icon.svg"].response(request)


@router.get("/about")
async def about(request: Request) -> dict[str, Any]:
    """Describe the engines for people: what each can do, and its certificate in three lines."""
    reports: Reports = request.app.state.reports
    return {
        "version": __version__,
        "engines": [
            {
                "name": served.name,
                "chat": served.llm.manifest.capabilities.chat,
                "fim": served.llm.manifest.capabilities.fim,
                "context": served.llm.context,
                "quality": (served.llm.manifest.parity or {}).get("quality"),
                "certificate": certificate_lines(served.llm.manifest),
                "report": reports.address(served.name) if served.llm.manifest.parity else None,
            }
            for served in Service.of(request).engines.all()
        ],
    }
