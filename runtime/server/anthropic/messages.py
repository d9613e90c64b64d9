"""`/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.anthropic.conversations import Asked
from trtcoder.runtime.server.conversation import Talk
from trtcoder.runtime.server.document.errors import SSE, AnthropicError, answers
from trtcoder.runtime.server.document.others import AnthropicAnswer, TokenCount
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.error_forms import anthropic
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import event, unless_disconnected
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, Piece, Text

router = APIRouter(tags=["anthropic"])
_PING = event({"type": "ping"}, "ping")
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesRequest(Asked):
    """A conversation that the model goes on with."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


@router.post("/v1/messages/count_tokens", responses=answers(TokenCount, AnthropicError))
async def count_tokens(body: Asked, request: Request) -> dict[str, int]:
    """Count the tokens of a prompt."""
    served = Service.of(request).engines.get(body.model)
    return {"input_tokens": len(body.conversation().prompt(served))}


@router.post("/v1/messages", responses=answers(AnthropicAnswer, AnthropicError, stream=SSE))
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    conversation = body.conversation()
    params = SamplingParams(
        max_tokens=service.limit(served, body.max_tokens),
        stop=body.stop_sequences or (),
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        constraint=conversation.constraint(),
    )
    talk = await conversation.start(service, served, request, params)
    try:
        if body.stream:
            frames = _frames(served, talk)
            response: Response = service.stream(frames, keep_alive=_PING, failure=failure)
        else:
            response = JSONResponse(await unless_disconnected(request, _whole(served, talk)))
    except BaseException:
        talk.generation.close()
        raise
    response.headers.update(conversation.box.headers())
    return response


def failure(error: ApiError) -> bytes:
    """Return the event of a stream that fails in the middle."""
    return event(anthropic(error), "error")


async def _whole(served: Served, talk: Talk) -> dict[str, Any]:
    (said,) = await talk.whole()
    content: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.parsed}
        for call in said.calls
    ]
    message = _message(served, talk.generation.usage)
    stop = _stop(said.finish_reason, said.stop_reason)
    return {**message, "content": content, **stop}


def _message(served: Served, usage: Usage) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": served.name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(usage),
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _stop(reason: str | None, stop: str | int | None) -> dict[str, Any]:
    if isinstance(stop, str) and reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": _REASONS.get(reason or "stop", "end_turn"), "stop_sequence": None}


async def _frames(served: Served, talk: Talk) -> AsyncIterator[bytes]:
    """Yield the message, its blocks one after the other, why it ended, and the end."""

    def send(kind: str, **data: Any) -> bytes:
        return event({"type": kind, **data}, kind)

    blocks = _Blocks()
    last: Chunk | None = None
    try:
        yield send("message_start", message=_message(served, talk.generation.usage))
        async for chunk, pieces in talk.pieces():
            last = chunk
            for piece in pieces:
                for kind, data in blocks.take(piece):
                    yield send(kind, **data)
        for kind, data in blocks.close():
            yield send(kind, **data)
        reason = talk.finish_reason(last) if last is not None else None
        stop = _stop(reason, last.stop_reason if last is not None else None)
        yield send("message_delta", delta=stop, usage=_usage(talk.generation.usage))
        yield send("message_stop")
    finally:
        talk.generation.close()


class _Blocks:
    """The content blocks of a stream; one is open at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._open: type[Text] | type[CallBegins] | None = None

    def take(self, piece: Piece) -> list[tuple[str, dict[str, Any]]]:
        """Return the events of a piece."""
        events: list[tuple[str, dict[str, Any]]] = []
        match piece:
            case Text():
                if self._open is not Text:
                    events += self.close()
                    events.append(self._start(Text, {"type": "text", "text": ""}))
                delta = {"type": "text_delta", "text": piece.text}
            case CallBegins():
                block = {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
                return [*self.close(), self._start(CallBegins, block)]
            case Arguments():
                delta = {"type": "input_json_delta", "partial_json": piece.text}
        events.append(("content_block_delta", {"index": self._count - 1, "delta": delta}))
        return events

    def close(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the end of the block that is open."""
        if self._open is None:
            return []
        self._open = None
        return [("content_block_stop", {"index": self._count - 1})]

    def _start(
        self, kind: type[Text] | type[CallBegins], block: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        self._open = kind
        self._count += 1
        return "content_block_start", {"index": self._count - 1, "content_block": block}
