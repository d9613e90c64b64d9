"""`/docs`: what the server answers, as a page without scripts that no other host has a part in."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from trtcoder.runtime.server.page.assets import PROTECTION, STYLE_ONLY

router = APIRouter()

_HEAD = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    "<style>:root{{color-scheme:light dark}}"
    "body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1.5rem;"
    "overflow-wrap:anywhere}}h2{{font-size:1.05rem;margin:2rem 0 .3rem}}dl{{margin:0}}"
    "dt{{font:.9rem/1.5 ui-monospace,monospace}}dd{{margin:0 0 .6rem;opacity:.75}}</style>"
    "<h1>{title}</h1><p>{text} Their bodies are in <a href='/openapi.json'>/openapi.json</a>.</p>"
)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """List the endpoints."""
    page = _listing(request.app.openapi())
    headers = {**PROTECTION, "content-security-policy": STYLE_ONLY}
    return HTMLResponse(page, headers=headers)


def _listing(schema: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document: its endpoints by tag."""
    by_tag: dict[str, list[tuple[str, str, str]]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            text = str(operation.get("description", "")).partition("\n")[0]
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append((method.upper(), path, text))
    info = schema["info"]
    title = f"{info['title']} {info['version']}"
    parts = [_HEAD.format(title=escape(title), text=escape(info.get("description", "")))]
    for tag, entries in by_tag.items():
        rows = "".join(
            f"<dt>{method} {escape(path)}</dt><dd>{escape(text)}</dd>"
            for method, path, text in entries
        )
        parts.append(f"<h2>{escape(tag)}</h2><dl>{rows}</dl>")
    return "".join([*parts, "</html>"])
