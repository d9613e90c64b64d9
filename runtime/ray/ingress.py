"""The ingress: takes HTTP, chooses nothing itself, and asks again where a replica dies.

A request is asked again only as long as nothing of its answer has gone to the client. Of what was
streaming from a replica that dies, the client gets an error event in its dialect's form.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trtcoder.runtime.ray.call import Call, Head
from trtcoder.runtime.server.error_forms import form_of
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.guard import too_large

# Replicas that a request is sent to, one after another, where each dies with it.
TRIES = 4
_ROUTES_OF_MODELS = ("/v1/models", "/models")
_LIVE = ("/health/live", "/ping")


class Ingress:
    """Takes requests and hands them to replicas.

    Args:
        replicas: Ray Serve's handle to them.
        names: of the engines, the default first.
        max_body_bytes: larger bodies are refused.
    """

    def __init__(self, replicas: Any, names: tuple[str, ...], max_body_bytes: int) -> None:
        self._replicas = replicas.options(stream=True)
        self._names = names
        self._max_body_bytes = max_body_bytes
        self._started = int(time.time())

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        path = request.url.path
        if path in _LIVE:
            return JSONResponse({"status": "live"})
        if path in _ROUTES_OF_MODELS and len(self._names) > 1:
            return JSONResponse(self._models())
        try:
            call = Call.of(request.scope, await self._body(request))
            pieces = self._pieces(call)
            head = await anext(pieces)
        except ApiError as error:
            return error.response(path)
        except ClientDisconnect:
            return Response(status_code=499)
        if not isinstance(head, Head):
            raise TypeError(f"a replica's answer begins with {type(head).__name__}")
        response = StreamingResponse(_bodies(pieces), head.status)
        response.raw_headers = list(head.headers)
        return response

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
        return b"".join(parts)

    async def _pieces(self, call: Call) -> AsyncIterator[Head | bytes]:
        """Yield the head and the body of an answer, from as many replicas as it takes."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        for _ in range(TRIES):
            head: Head | None = None
            sent = False
            answer = self._ask(call)
            try:
                async for piece in answer:
                    if isinstance(piece, Head):
                        head = piece
                        continue
                    # The head waits for the body's first piece: what has neither can begin anew.
                    if not sent and head is not None:
                        yield head
                    sent = True
                    yield piece
                if head is not None and not sent:
                    yield head
                return
            except RayActorError:
                if not sent:
                    continue
                if head is None or not _is_stream(head):
                    raise
                yield _last_event(call.path, head)
                return
            except BackPressureError as error:
                raise ApiError(
                    503, f"all replicas are busy: {error}", headers={"retry-after": "5"}
                ) from error
            finally:
                answer.cancel()
        raise ApiError(
            503,
            f"{TRIES} replicas died with this request; it may be what ends them",
            code="engine_failed",
        )

    def _ask(self, call: Call) -> Any:
        """Return the answer of a replica, as Ray yields it."""
        if len(self._names) == 1:
            return self._replicas.remote(call)
        wanted = call.model.strip().lower().removesuffix(":latest")
        known = {name.lower(): name for name in self._names}
        name = known.get(wanted, self._names[0])
        return self._replicas.options(multiplexed_model_id=name).remote(call)

    def _models(self) -> Mapping[str, Any]:
        """Return OpenAI's list; an engine's own entry is at /v1/models/NAME."""
        data = [
            {"id": name, "object": "model", "created": self._started, "owned_by": "trtcoder"}
            for name in self._names
        ]
        return {"object": "list", "data": data}


async def _bodies(pieces: AsyncIterator[Head | bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


def _is_stream(head: Head) -> bool:
    kind = head.value(b"content-type")
    return kind.startswith((b"text/event-stream", b"application/x-ndjson"))


def _last_event(path: str, head: Head) -> bytes:
    """Return how a stream tells that its replica has died."""
    died = ApiError(503, "the replica that answered has died; ask again", code="engine_closed")
    text = json.dumps(form_of(path)(died))
    if head.value(b"content-type").startswith(b"application/x-ndjson"):
        return f"{text}\n".encode()
    name = "event: error\n" if path.startswith("/v1/messages") else ""
    return f"{name}data: {text}\n\n".encode()
