"""`/v1/responses`, without a memory: every request brings its whole conversation."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.conversation import Conversation, Said, Talk
from trtcoder.runtime.server.document.errors import SSE, answers
from trtcoder.runtime.server.document.openai import ResponseAnswer
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.openai.response_items import turns_of
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import event, unless_disconnected
from trtcoder.runtime.server.structure import of_response_format
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, Piece, Text
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall

router = APIRouter(tags=["responses"])


class ResponsesRequest(BaseModel):
    """A conversation that the model goes on with.

    Keys that change nothing here, such as store, include and reasoning, are passed over.
    """

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    # What a server with a memory does.
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    prompt: dict[str, Any] | None = None

    def talk_of(self) -> Conversation:
        """Return the conversation.

        Raises:
            RequestError: something that is not supported.
        """
        for name in ("previous_response_id", "conversation", "background", "prompt"):
            if getattr(self, name):
                raise RequestError(
                    f"{name}: it is not supported, since nothing is stored here; "
                    "send the whole conversation as input"
                )
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise RequestError(
                f"max_output_tokens is {self.max_output_tokens}; it must be at least 1"
            )
        form = (self.text or {}).get("format")
        turns = turns_of(self.input, self.instructions)
        if not turns:
            raise RequestError("input: there is none")
        parallel = self.parallel_tool_calls is not False
        return Conversation(
            turns,
            ToolBox.of(self.tools, self.tool_choice, parallel=parallel),
            of_response_format(form, "text") if isinstance(form, dict) else None,
        )


@router.post("/v1/responses", responses=answers(ResponseAnswer, stream=SSE))
@router.post("/responses", include_in_schema=False)
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    conversation = body.talk_of()
    params = SamplingParams(
        max_tokens=service.limit(served, body.max_output_tokens),
        temperature=body.temperature,
        top_p=body.top_p,
        constraint=conversation.constraint(),
    )
    talk = await conversation.start(service, served, request, params)
    head = _head(body, served)
    try:
        if body.stream:
            events = _Events(head)
            frames = _frames(events, talk)
            response: Response = service.stream(frames, failure=events.failed)
        else:
            response = JSONResponse(await unless_disconnected(request, _whole(head, talk)))
    except BaseException:
        talk.generation.close()
        raise
    response.headers.update(conversation.box.headers())
    return response


def _head(body: ResponsesRequest, served: Served) -> dict[str, Any]:
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": served.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": body.temperature,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _ended(
    head: dict[str, Any], output: list[dict[str, Any]], usage: Usage, reason: str | None
) -> dict[str, Any]:
    cut = reason == "length"
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(id_: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    message = {"id": id_, "type": "message", "role": "assistant"}
    return {**message, "status": status, "content": content}


def _call(id_: str, call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "id": id_,
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


async def _whole(head: dict[str, Any], talk: Talk) -> dict[str, Any]:
    (said,) = await talk.whole()
    return _ended(head, _output(said), talk.generation.usage, said.finish_reason)


def _output(said: Said) -> list[dict[str, Any]]:
    status = "incomplete" if said.finish_reason == "length" else "completed"
    output = []
    if said.text or not said.calls:
        output.append(_message(f"msg_{secrets.token_hex(12)}", [_part(said.text)], status))
    return output + [_call(f"fc_{secrets.token_hex(12)}", call, status) for call in said.calls]


async def _frames(events: _Events, talk: Talk) -> AsyncIterator[bytes]:
    """Yield the response, its items one after the other, and the response as it ended."""
    last: Chunk | None = None
    try:
        for kind in ("response.created", "response.in_progress"):
            yield events.send(kind, response=events.head)
        async for chunk, pieces in talk.pieces():
            last = chunk
            for piece in pieces:
                for frame in events.take(piece):
                    yield frame
        reason = None if last is None else talk.finish_reason(last)
        for frame in events.close("incomplete" if reason == "length" else "completed"):
            yield frame
        ended = _ended(events.head, events.output, talk.generation.usage, reason)
        yield events.send(f"response.{ended['status']}", response=ended)
    finally:
        talk.generation.close()


class _Events:
    """Numbers the events of a stream and keeps the item that is open.

    Attributes:
        head: the response as it began.
        output: the items that are done.
    """

    def __init__(self, head: dict[str, Any]) -> None:
        self.head = head
        self.output: list[dict[str, Any]] = []
        self._number = 0
        self._open: ToolCall | str | None = None  # a call, or the text of a message
        self._id = ""

    def send(self, kind: str, **data: Any) -> bytes:
        """Return an event."""
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **data}, kind)

    def failed(self, error: ApiError) -> bytes:
        """Return the event of a stream that fails in the middle."""
        told = {"code": error.code or "server_error", "message": error.message}
        return self.send(
            "response.failed", response={**self.head, "status": "failed", "error": told}
        )

    def take(self, piece: Piece) -> list[bytes]:
        """Return the events of a piece."""
        frames: list[bytes] = []
        match piece:
            case Text():
                if not isinstance(self._open, str):
                    frames += self.close("completed")
                    self._open, self._id = "", f"msg_{secrets.token_hex(12)}"
                    frames.append(self._added(_message(self._id, [], "in_progress")))
                    frames.append(self._in_part("response.content_part.added", part=_part("")))
                self._open += piece.text
                frames.append(
                    self._in_part("response.output_text.delta", delta=piece.text, logprobs=[])
                )
            case CallBegins():
                frames += self.close("completed")
                call = ToolCall(piece.id, piece.name, "")
                self._open, self._id = call, f"fc_{secrets.token_hex(12)}"
                frames.append(self._added(_call(self._id, call, "in_progress")))
            case Arguments():
                if isinstance(self._open, ToolCall):
                    call = self._open
                    self._open = ToolCall(call.id, call.name, call.arguments + piece.text)
                frames.append(
                    self._in_item("response.function_call_arguments.delta", delta=piece.text)
                )
        return frames

    def close(self, status: str) -> list[bytes]:
        """Return the end of the item that is open."""
        opened, self._open = self._open, None
        if opened is None:
            return []
        if isinstance(opened, str):
            part = _part(opened)
            item = _message(self._id, [part], status)
            frames = [
                self._in_part("response.output_text.done", text=opened, logprobs=[]),
                self._in_part("response.content_part.done", part=part),
            ]
        else:
            item = _call(self._id, opened, status)
            kind = "response.function_call_arguments.done"
            frames = [self._in_item(kind, name=opened.name, arguments=opened.arguments)]
        frames.append(
            self.send("response.output_item.done", output_index=len(self.output), item=item)
        )
        self.output.append(item)
        return frames

    def _added(self, item: dict[str, Any]) -> bytes:
        kind = "response.output_item.added"
        return self.send(kind, output_index=len(self.output), item=item)

    def _in_item(self, kind: str, **data: Any) -> bytes:
        return self.send(kind, item_id=self._id, output_index=len(self.output), **data)

    def _in_part(self, kind: str, **data: Any) -> bytes:
        return self._in_item(kind, content_index=0, **data)
