"""Responses that go on: server-sent events and JSON lines, watched for a reader who leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trtcoder.errors import TrtcoderError
from trtcoder.runtime.server.error_forms import openai
from trtcoder.runtime.server.errors import ApiError

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
# Kept, since `json.dumps` makes one a call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(data: Any, name: str | None = None) -> bytes:
    """Return one server-sent event whose data is JSON."""
    text = _encode(data)
    return (f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n").encode()


def line(data: Any) -> bytes:
    """Return one line of JSON."""
    return (_encode(data) + "\n").encode()


class EventForm:
    """An event of which only one text changes: the rest is written once for a whole stream."""

    # It is in no other place of the data: names and texts hold no control character.
    GAP = "\0"

    def __init__(self, data: Any) -> None:
        """Take the event's data, in which the text is `GAP`."""
        before, _, after = event(data).decode().partition(_encode(self.GAP))
        self._before, self._after = before, after

    def fill(self, text: str) -> bytes:
        """Return the event with ``text``."""
        return f"{self._before}{_encode(text)}{self._after}".encode()


class Stream(Response):
    """A response of frames as they come.

    A reader who leaves ends the frames' iterator at once, also while it waits for the engine. A
    failure in the middle becomes a last frame, since the status is sent already.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        keep_alive_seconds: float,
        media_type: str = "text/event-stream",
        keep_alive: bytes | None = b": keep-alive\n\n",
        failure: Callable[[ApiError], bytes] | None = None,
    ) -> None:
        super().__init__(media_type=media_type)
        # Proxies would hold events back.
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        del self.headers["content-length"]
        self._frames = frames
        self._keep_alive = keep_alive
        self._failure = failure or (lambda error: event(openai(error)))
        self._seconds = keep_alive_seconds
        self._sent = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the frames or the reader end."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        main = asyncio.current_task()
        left = False

        async def watch() -> None:
            nonlocal left
            await disconnected(receive)
            left = True
            if main is not None:
                main.cancel()

        helpers = [asyncio.create_task(watch()), asyncio.create_task(self._tick(send))]
        try:
            async for frame in self._framed():
                self._sent = time.monotonic()
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not left:
                raise
        except OSError:  # the socket is gone
            pass
        finally:
            for helper in helpers:
                helper.cancel()
            with suppress(RuntimeError):
                await self._frames.aclose()  # type: ignore[attr-defined]

    async def _framed(self) -> AsyncIterator[bytes]:
        try:
            async for frame in self._frames:
                yield frame
        except (ApiError, TrtcoderError) as error:
            failed = error if isinstance(error, ApiError) else ApiError.of(error)
            yield self._failure(failed)

    async def _tick(self, send: Send) -> None:
        while self._keep_alive is not None:
            wait = self._sent + self._seconds - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            body = {"type": "http.response.body", "body": self._keep_alive, "more_body": True}
            await send(body)
            # From the end of sending: however short the interval, the loop is left to others.
            self._sent = time.monotonic()


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Return the result of ``work``; cancel it when the client goes before it is there.

    Raises:
        ApiError: the client has gone (499, which nobody reads).
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has closed the connection")
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
