"""`/report`: an engine's certificate as a page, made by `trtcoder report` when it is asked for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import secrets
import sys
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Scope

from trtcoder.refusals import is_installed
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.page.assets import PROTECTION, STYLE_ONLY
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["page"])

_PREFIX = "/report/"
_HEADERS = {
    **PROTECTION,
    "content-security-policy": STYLE_ONLY,
    "cache-control": "no-cache",
}
_COMMAND = (sys.executable, "-c", "from trtcoder.cli import main; main()", "report")
_SORRY = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{name}: no report</title><style>:root{{color-scheme:light dark}}"
    "body{{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1.5rem;"
    "overflow-wrap:anywhere}}</style>"
    "<h1>{name} has no report</h1><p>{reason}</p></html>"
)


class Reports:
    """The reports that were made, and who may read them.

    A browser that follows a link shows no API key, so the links that holders of a key are given
    carry a pass. It opens one report and nothing else, until the server ends.
    """

    def __init__(self, *, needs_pass: bool) -> None:
        self._secret = secrets.token_bytes(32) if needs_pass else None
        self._pages: dict[str, tuple[str, bytes]] = {}
        self._making = asyncio.Lock()

    def address(self, name: str) -> str:
        """Return the path of an engine's report, with its pass where one is needed."""
        path = f"{_PREFIX}{quote(name, safe='')}"
        return path if self._secret is None else f"{path}?pass={self._pass(name)}"

    def admits(self, scope: Scope) -> bool:
        """Return whether a request shows the pass of the report that it asks for."""
        path = scope["path"]
        if self._secret is None or not path.startswith(_PREFIX):
            return False
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("pass", [""])[0]
        expected = self._pass(path.removeprefix(_PREFIX))
        return hmac.compare_digest(expected.encode(), shown.encode())

    async def page(self, served: Served) -> bytes:
        """Return an engine's report.

        Raises:
            ApiError: 404, it has none; the message says how it gets one.
        """
        async with self._making:
            fingerprint, page = self._pages.get(served.name, ("", b""))
            if fingerprint != served.fingerprint:
                page = await _make(served)
                self._pages[served.name] = served.fingerprint, page
            return page

    def _pass(self, name: str) -> str:
        return hmac.new(self._secret or b"", name.encode(), hashlib.sha256).hexdigest()


async def _make(served: Served) -> bytes:
    # In a process of its own: drawing takes a second of the interpreter, and memory for good.
    options = [] if is_installed("matplotlib") else ["--no-drawings"]
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, str(served.folder), "--out", "-", *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    page, complaint = await process.communicate()
    if process.returncode:
        raise ApiError(404, complaint.decode("utf-8", "replace").strip() or "it cannot be made")
    return page


@router.get("/report", include_in_schema=False)
@router.get("/report/{name:path}", include_in_schema=False)
async def report(request: Request, name: str = "") -> Response:
    """Return the certificate of an engine as a page."""
    served = Service.of(request).engines.get(name)
    reports: Reports = request.app.state.reports
    try:
        page, status = await reports.page(served), 200
    except ApiError as error:
        page = _SORRY.format(
            name=html.escape(served.name), reason=html.escape(error.message)
        ).encode()
        status = error.status
    return Response(page, status, headers=_HEADERS, media_type="text/html; charset=utf-8")
