"""The files of the page, and the headers that bind a browser to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

INDEX = "page.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# Nothing is loaded from elsewhere, nothing runs that is no file of ours, and no text becomes
# markup: with `require-trusted-types-for` the browser itself refuses innerHTML.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# For pages that have their style in themselves, and no script.
STYLE_ONLY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PROTECTION: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, its media type, and a tag that changes with them."""

    content: bytes
    media_type: str
    tag: str

    def response(self, request: Request, **headers: str) -> Response:
        """Return the file, or 304 where the browser has it already."""
        sent = {
            **PROTECTION,
            "content-security-policy": _POLICY,
            # Asked again each time, and answered without a body while nothing has changed.
            "cache-control": "no-cache",
            "etag": self.tag,
            **headers,
        }
        known = request.headers.get("if-none-match", "")
        if self.tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=sent)
        return Response(self.content, media_type=self.media_type, headers=sent)


@cache
def assets() -> Mapping[str, Asset]:
    """Return all files of the page by name."""
    found = {}
    for file in files("trtcoder.runtime.server.page").joinpath("static").iterdir():
        kind = _TYPES.get(f".{file.name.rpartition('.')[2]}")
        if kind is not None:
            content = file.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found[file.name] = Asset(content, kind, tag)
    return found
