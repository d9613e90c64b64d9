"""`/`: the page for browsers, a word for everything else."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from trtcoder.runtime.server.page.assets import INDEX, assets
from trtcoder.runtime.server.service import Service

router = APIRouter()

# By which Ollama's clients, and scripts that look for one, know that its API is spoken here.
_ALIVE = "Ollama is running"


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root(request: Request) -> Response:
    """Answer who asks for HTML with the page, and others with a word."""
    wants_page = "text/html" in request.headers.get("accept", "")
    if wants_page and Service.of(request).settings.page:
        return assets()[INDEX].response(request, vary="accept")
    return PlainTextResponse(_ALIVE, headers={"vary": "accept"})
