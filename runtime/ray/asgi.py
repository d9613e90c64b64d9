"""Runs an ASGI application for one call, in its own process and without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.types import ASGIApp, Message

from trtcoder.runtime.ray.call import Call, Head

# Pieces that wait for a slow reader before the application waits too.
_PIECES = 64
# Seconds that an application has to see that its reader has left.
_PATIENCE = 10.0


async def answer(app: ASGIApp, call: Call) -> AsyncIterator[Head | bytes]:
    """Yield the head of the response, then its body in the pieces in which it is sent.

    The application is told of a disconnect when the iterator is closed or its task is cancelled.
    """
    pieces: asyncio.Queue[Message | None] = asyncio.Queue(_PIECES)
    left = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": call.body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if left.is_set():
            raise OSError("the reader has left")
        await pieces.put(message)

    async def run() -> None:
        try:
            await app(call.scope(), receive, send)
        finally:
            if not left.is_set():
                await pieces.put(None)

    task = asyncio.create_task(run())
    try:
        while (message := await pieces.get()) is not None:
            if message["type"] == "http.response.start":
                headers = tuple((bytes(n), bytes(v)) for n, v in message.get("headers", []))
                yield Head(message["status"], headers)
            elif body := message.get("body", b""):
                yield bytes(body)
        await task
    finally:
        left.set()
        # One who waits for room goes on, and finds that nobody reads.
        while not pieces.empty():
            pieces.get_nowait()
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(task, _PATIENCE)
