"""What every request passes first: its host, its key, the size of its body."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.settings import ServerSettings
from trtcoder.runtime.server.work import Work

# Asked by balancers and by people without a key.
_OPEN = frozenset(
    {"/health", "/v1/health", "/health/live", "/health/ready", "/", "/docs", "/favicon.ico"}
)
_OPEN_PREFIX = "/page/"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

_log = structlog.get_logger("trtcoder.server")


def is_open(path: str) -> bool:
    """Whether a path asks for no key."""
    return path in _OPEN or path.startswith(_OPEN_PREFIX)


class Guard:
    """ASGI middleware. Prompts and answers are never logged.

    Each request has an id, the client's ``x-request-id`` or one of ours, which the response and the
    log name.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        is_draining: Callable[[], bool],
        has_pass: Callable[[Scope], bool] = lambda _: False,
        note: Callable[[Work], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._is_draining = is_draining
        self._has_pass = has_pass
        self._note = note
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on and log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")[:128] or secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        asked = scope
        # What can be got can be looked at: the answer is the same, and its body is not sent.
        if scope["method"] == "HEAD" and scope["path"] != "/":
            asked = {**scope, "method": "GET"}
        limited = _Limited(receive, self._settings.max_body_bytes)
        try:
            self._check(scope, headers)
            await self._app(asked, limited, answer)
        except ApiError as error:
            if status:
                raise
            await error.response(scope["path"])(scope, receive, answer)
        finally:
            self._note(Work.of(scope["state"]))
            _log.info(
                "request",
                id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.monotonic() - started, 4),
                client=scope["state"].get("client", ""),
                **_trace(scope),
            )

    def _check(self, scope: Scope, headers: Headers) -> None:
        settings, path = self._settings, scope["path"]
        host = headers.get("host", "").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        # A page of another site can make a browser call this machine under that site's name.
        if settings.is_loopback and name and name not in _LOOPBACK | set(settings.hosts):
            raise ApiError(403, f"host {name!r} is not served here", code="host_not_allowed")
        scope["state"]["client"] = ""
        opened = is_open(path) or self._has_pass(scope)
        if self._keys and not opened:
            scope["state"]["client"] = self._client(headers)
        if self._is_draining() and scope["method"] == "POST":
            raise ApiError(
                503,
                "the server is shutting down; try another one",
                code="draining",
                headers={"retry-after": "5"},
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise ApiError(400, "the content-length is malformed")
        if int(length) > settings.max_body_bytes:
            raise too_large(settings.max_body_bytes)

    def _client(self, headers: Headers) -> str:
        """Return a name for the key that a request shows, which is not the key."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        shown = given.strip() if scheme.lower() == "bearer" else ""
        shown = shown or headers.get("x-api-key", "") or headers.get("api-key", "")
        found = ""
        for key in self._keys:
            # All keys are compared, whichever fits: the time tells nothing.
            if hmac.compare_digest(key, shown.encode()):
                # The same after a restart, and wherever the key stands in its file.
                found = f"key-{hashlib.sha256(key).hexdigest()[:12]}"
        if not found:
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return found


def _trace(scope: Scope) -> dict[str, str]:
    """Return the id of a request's trace where it has one."""
    found = scope["state"].get("trace")
    return {} if found is None else {"trace": found}


def too_large(limit: int) -> ApiError:
    """Return the error of a body that is larger than ``limit`` bytes."""
    return ApiError(413, f"the body is larger than {limit:,} bytes", code="body_too_large")


class _Limited:
    """Counts a body that comes without its length, or with a wrong one."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._count = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            if self._count > self._limit:
                raise too_large(self._limit)
        return message
