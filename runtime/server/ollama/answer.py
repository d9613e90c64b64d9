"""Answers as Ollama writes them: one object, or lines of JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from trtcoder.errors import TrtcoderError
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.fim.filling import Filling
from trtcoder.runtime.server.ollama.fields import error_form
from trtcoder.runtime.server.streams import line


class OllamaAnswer:
    """Reads the answer to a request and writes it; a chat's text is in a message."""

    def __init__(
        self, served: Served, generation: AsyncGeneration | Filling, *, is_chat: bool
    ) -> None:
        self._served, self._generation, self._is_chat = served, generation, is_chat

    async def whole(self) -> dict[str, Any]:
        """Return the answer."""
        text, reason = "", "stop"
        try:
            async for chunk in self._generation:
                text += chunk.text
                reason = chunk.finish_reason or reason
        finally:
            self._generation.close()
        return self._last(text, reason)

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield a line a piece, and a last one with what it cost."""
        try:
            async for chunk in self._generation:
                if chunk.text:
                    yield line({**said(self._served, chunk.text, self._is_chat), "done": False})
                if chunk.finish_reason is not None:
                    yield line(self._last("", chunk.finish_reason))
        except (ApiError, TrtcoderError) as error:
            failed = error if isinstance(error, ApiError) else ApiError.of(error)
            yield line(error_form(failed))
        finally:
            self._generation.close()

    def _last(self, text: str, reason: str) -> dict[str, Any]:
        usage = self._generation.usage
        return {
            **said(self._served, text, self._is_chat),
            "done": True,
            "done_reason": "stop" if reason == "stop" else "length",
            "total_duration": _nanoseconds(time.monotonic() - usage.queued),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prefill_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.decode_seconds),
        }


def said(served: Served, text: str, is_chat: bool) -> dict[str, Any]:
    """Return the fields that every object of an answer begins with."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    head = {"model": served.name, "created_at": now}
    if is_chat:
        return {**head, "message": {"role": "assistant", "content": text}}
    return {**head, "response": text}


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)
