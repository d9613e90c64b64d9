"""Answers as Ollama writes them: one object, or lines of JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from trtcoder.runtime.server.conversation import Talk
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.streams import line
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, Piece, Text
from trtcoder.runtime.server.tools.tool import ToolCall


class OllamaAnswer:
    """Reads the answer to a request and writes it; a chat's text is in a message."""

    def __init__(self, served: Served, talk: Talk, *, is_chat: bool) -> None:
        self._served, self._talk, self._is_chat = served, talk, is_chat

    async def whole(self) -> dict[str, Any]:
        """Return the answer."""
        (answer,) = await self._talk.whole()
        found = self._last(answer.text, answer.finish_reason)
        if answer.calls:
            found["message"]["tool_calls"] = [_call(each) for each in answer.calls]
        return found

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield a line a piece and a whole call, and a last one with what it cost."""
        calls = _Calls()
        try:
            async for chunk, pieces in self._talk.pieces():
                for piece in pieces:
                    if (call := calls.take(piece)) is not None:
                        yield self._call_line(call)
                    if isinstance(piece, Text) and piece.text:
                        yield line({**said(self._served, piece.text, self._is_chat), "done": False})
                if chunk.finish_reason is not None:
                    if (call := calls.end()) is not None:
                        yield self._call_line(call)
                    yield line(self._last("", self._talk.finish_reason(chunk)))
        finally:
            self._talk.generation.close()

    def _call_line(self, call: ToolCall) -> bytes:
        found = said(self._served, "", self._is_chat)
        found["message"]["tool_calls"] = [_call(call)]
        return line({**found, "done": False})

    def _last(self, text: str, reason: str | None) -> dict[str, Any]:
        usage = self._talk.generation.usage
        return {
            **said(self._served, text, self._is_chat),
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": _nanoseconds(time.monotonic() - usage.queued),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prefill_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.decode_seconds),
        }


class _Calls:
    """Collects a call until it is whole, which it is when something else comes."""

    def __init__(self) -> None:
        self._open: ToolCall | None = None

    def take(self, piece: Piece) -> ToolCall | None:
        """Take a piece; return the call that it ends."""
        if isinstance(piece, Arguments):
            if self._open is not None:
                call = self._open
                self._open = call.grown(piece.text)
            return None
        ended = self.end()
        if isinstance(piece, CallBegins):
            self._open = ToolCall(piece.id, piece.name, "")
        return ended

    def end(self) -> ToolCall | None:
        """Return the call that is open; nothing follows it."""
        ended, self._open = self._open, None
        return ended


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": call.parsed}}


def said(served: Served, text: str, is_chat: bool) -> dict[str, Any]:
    """Return the fields that every object of an answer begins with."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    head = {"model": served.name, "created_at": now}
    if is_chat:
        return {**head, "message": {"role": "assistant", "content": text}}
    return {**head, "response": text}


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)
