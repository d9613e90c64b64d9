"""`/v1/responses`, without a memory: every request brings its whole conversation."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.server.conversation import Conversation, Talk
from trtcoder.runtime.server.document.errors import SSE, answers
from trtcoder.runtime.server.document.openai import InputTokens, ResponseAnswer
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fields import SamplerFields
from trtcoder.runtime.server.openai.response_events import ResponseEvents
from trtcoder.runtime.server.openai.response_items import turns_of
from trtcoder.runtime.server.openai.token_names import TokenNames
from trtcoder.runtime.server.openai.usage import counted
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import unless_disconnected
from trtcoder.runtime.server.structure import of_response_format
from trtcoder.runtime.server.tools.tool import ToolBox

router = APIRouter(tags=["responses"])
# What a request includes to have log-probabilities.
_LOGPROBS = "message.output_text.logprobs"


class ResponsesRequest(SamplerFields):
    """A conversation that the model goes on with.

    Keys that change nothing here, such as store and reasoning, are passed over.
    """

    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
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
        given, form = (self.text or {}).get("format"), self.constraint()
        if isinstance(given, dict) and form is not None:
            raise RequestError(f"{form.source}: not together with text.format")
        turns = turns_of(self.input, self.instructions)
        if not turns:
            raise RequestError("input: there is none")
        parallel = self.parallel_tool_calls is not False
        return Conversation(
            turns,
            ToolBox.of(self.tools, self.tool_choice, parallel=parallel, texts=True),
            of_response_format(given, "text") if isinstance(given, dict) else form,
        )


@router.post("/v1/responses", responses=answers(ResponseAnswer, stream=SSE))
@router.post("/responses", include_in_schema=False)
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    conversation = body.talk_of()
    has_logprobs = _LOGPROBS in (body.include or ())
    params = body.params(
        service.limit(served, body.max_output_tokens),
        constraint=conversation.constraint(),
        logprobs=(body.top_logprobs or 0) if has_logprobs else None,
    )
    talk = await conversation.start(service, served, request, params)
    events = ResponseEvents(_head(body, served), TokenNames(served))
    try:
        if body.stream:
            frames = _frames(events, talk)
            response: Response = service.stream(frames, failure=events.failed)
        else:
            response = JSONResponse(await unless_disconnected(request, _whole(events, talk)))
    except BaseException:
        talk.generation.close()
        raise
    response.headers.update(conversation.box.headers())
    return response


@router.post("/v1/responses/input_tokens", responses=answers(InputTokens))
async def input_tokens(body: ResponsesRequest, request: Request) -> dict[str, Any]:
    """Count the tokens of a prompt."""
    served = Service.of(request).engines.get(body.model)
    return counted(body.talk_of().prompt(served))


def _head(body: ResponsesRequest, served: Served) -> dict[str, Any]:
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
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
        "top_logprobs": body.top_logprobs or 0,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _ended(events: ResponseEvents, usage: Usage, reason: str | None) -> dict[str, Any]:
    cut = reason == "length"
    return {
        **events.head,
        "status": _status(reason),
        "completed_at": None if cut else int(time.time()),
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": events.output,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


async def _whole(events: ResponseEvents, talk: Talk) -> dict[str, Any]:
    """Return the response that the events of a stream would tell."""
    reason = None
    try:
        async for chunk, pieces in talk.pieces():
            events.take(chunk, pieces)
            reason = talk.finish_reason(chunk)
    finally:
        talk.generation.close()
    events.finish(_status(reason))
    return _ended(events, talk.generation.usage, reason)


async def _frames(events: ResponseEvents, talk: Talk) -> AsyncIterator[bytes]:
    """Yield the response, its items one after the other, and the response as it ended."""
    reason = None
    try:
        for kind in ("response.created", "response.in_progress"):
            yield events.send(kind, response=events.head)
        async for chunk, pieces in talk.pieces():
            for frame in events.take(chunk, pieces):
                yield frame
            reason = talk.finish_reason(chunk)
        for frame in events.finish(_status(reason)):
            yield frame
        ended = _ended(events, talk.generation.usage, reason)
        yield events.send(f"response.{ended['status']}", response=ended)
    finally:
        talk.generation.close()


def _status(reason: str | None) -> str:
    return "incomplete" if reason == "length" else "completed"
