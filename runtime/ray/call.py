"""A request as it goes from the ingress to a replica, and the head of its response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[bytes, bytes], ...]

# Where the dialects have what stands before a prompt, and the prompt, in the order in which a
# prompt is made of them.
_TEXTS = ("system", "instructions", "input_extra", "input_prefix", "prompt", "input", "messages")
# Of a message or a part, what is text; the rest says what it is.
_INNER = ("role", "content", "text", "arguments", "output")
# That a router compares; longer common prefixes tell replicas no further apart.
_MOST_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request.

    Attributes:
        method, path, query, headers, body: as they came.
        model: that the body names; empty where it names none.
        prompt: the text by which Ray's prefix-aware router chooses a replica; never empty, since
            that router divides by its length.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    model: str
    prompt: str

    @classmethod
    def of(cls, scope: Mapping[str, Any], body: bytes) -> Call:
        """Return the call of an ASGI scope; a body that is no JSON object is left to the server."""
        try:
            fields = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            fields = {}
        if not isinstance(fields, dict):
            fields = {}
        model = fields.get("model")
        return cls(
            scope["method"],
            scope["path"],
            scope.get("query_string", b""),
            tuple((bytes(name), bytes(value)) for name, value in scope["headers"]),
            body,
            model if isinstance(model, str) else "",
            routing_text(fields) or scope["path"],
        )

    def scope(self) -> dict[str, Any]:
        """Return an ASGI scope of its own."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": list(self.headers),
            "client": None,
            "server": None,
            "state": {},
        }


@dataclass(frozen=True, slots=True)
class Head:
    """A response's status and headers; its body comes behind it, in pieces."""

    status: int
    headers: Headers

    def value(self, name: bytes) -> bytes:
        """Return a header's value; empty where it has none."""
        return next((value for known, value in self.headers if known.lower() == name), b"")


def routing_text(fields: Mapping[str, Any]) -> str:
    """Return a body's texts in the order in which they become a prompt.

    Two bodies whose prompts begin alike have texts that begin alike; it need not be the prompt.
    """
    pieces: list[str] = []
    length = 0
    for name in _TEXTS:
        for piece in _texts(fields.get(name)):
            pieces.append(piece)
            length += len(piece)
            if length >= _MOST_CHARACTERS:
                return "\n".join(pieces)[:_MOST_CHARACTERS]
    return "\n".join(pieces)


def _texts(value: object, depth: int = 8) -> Iterator[str]:
    match value:
        case str():
            yield value
        case bool() | None:
            return
        case int():
            # A token of a prompt that is given as ids.
            yield str(value)
        case list() if depth:
            for each in value:
                yield from _texts(each, depth - 1)
        case dict() if depth:
            for name in _INNER:
                yield from _texts(value.get(name), depth - 1)
