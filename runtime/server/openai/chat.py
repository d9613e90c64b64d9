"""`/v1/chat/completions`."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.runtime.requests.events import Chunk, TokenLogprob
from trtcoder.runtime.server.conversation import Conversation, Said, Talk
from trtcoder.runtime.server.document.errors import SSE, answers
from trtcoder.runtime.server.document.openai import ChatCompletion
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fields import SamplingFields
from trtcoder.runtime.server.messages import ChatMessage, as_turns
from trtcoder.runtime.server.service import Service, usage_of
from trtcoder.runtime.server.streams import DONE, EventForm, event, unless_disconnected
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, Piece, Text
from trtcoder.runtime.server.tools.tool import ToolBox

router = APIRouter(tags=["chat"])


class ChatRequest(SamplingFields):
    """A conversation that the model goes on with."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    # vLLM's way to have the last message continued.
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # What tools replaced.
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None


@router.post("/v1/chat/completions", responses=answers(ChatCompletion, stream=SSE))
@router.post("/chat/completions", include_in_schema=False)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: only with stream")
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs: only with logprobs")
    if body.functions or body.function_call:
        raise RequestError("functions: they are not supported; use tools and tool_choice")
    begins = "add_generation_prompt" in body.model_fields_set and body.add_generation_prompt
    if body.continue_final_message and begins:
        raise RequestError("add_generation_prompt: not together with continue_final_message")
    parallel = body.parallel_tool_calls is not False
    conversation = Conversation(
        as_turns(body.messages),
        ToolBox.of(body.tools, body.tool_choice, parallel=parallel),
        body.constraint(),
        body.continue_final_message or bool(body.messages and body.messages[-1].prefix),
    )
    asked = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    params = body.params(
        service.limit(served, asked),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=conversation.constraint(),
    )
    talk = await conversation.start(service, served, request, params)
    answer = _Answer(served, body, talk)
    headers = conversation.box.headers()
    try:
        if body.stream:
            response: Response = service.stream(_frames(answer))
        else:
            response = JSONResponse(await unless_disconnected(request, _whole(answer)))
    except BaseException:
        talk.generation.close()
        raise
    response.headers.update(headers)
    return response


class _Answer:
    """Writes choices in OpenAI's form."""

    def __init__(self, served: Served, body: ChatRequest, talk: Talk) -> None:
        self.served, self.body, self.talk = served, body, talk
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    def logprobs(self, tokens: list[tuple[int, float, tuple[TokenLogprob, ...]]]) -> dict[str, Any]:
        """Return OpenAI's object for the tokens of an answer."""
        return {
            "content": [
                {
                    **self._token(token, value),
                    "top_logprobs": [self._token(*each) for each in top],
                }
                for token, value, top in tokens
            ]
        }

    def _token(self, token: int, value: float) -> dict[str, Any]:
        data = self.served.llm.tokenizer.token_bytes(token)
        text = data.decode("utf-8", "replace")
        return {"token": text, "logprob": value, "bytes": list(data)}


async def _whole(answer: _Answer) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": _message(said),
            "logprobs": answer.logprobs(said.logprobs) if answer.body.logprobs else None,
            "finish_reason": said.finish_reason,
            "stop_reason": said.stop_reason,
        }
        for index, said in enumerate(await answer.talk.whole())
    ]
    return {
        **answer.head,
        "object": "chat.completion",
        "choices": choices,
        "usage": usage_of(answer.talk.generation.usage),
    }


def _message(said: Said) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text}
    if said.calls:
        message["content"] = said.text or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in said.calls
        ]
    return message


def _delta(piece: Piece) -> dict[str, Any]:
    match piece:
        case Text():
            return {"content": piece.text}
        case CallBegins():
            function = {"name": piece.name, "arguments": ""}
            call = {"index": piece.number, "id": piece.id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case Arguments():
            part = {"index": piece.number, "function": {"arguments": piece.text}}
            return {"tool_calls": [part]}


async def _frames(answer: _Answer) -> AsyncIterator[bytes]:
    """Yield the role, what comes, one finish a choice, the usage and the end."""
    body, talk = answer.body, answer.talk
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if include_usage else {}
    head = {**answer.head, "object": "chat.completion.chunk"}

    def frame(index: int, delta: dict[str, Any], **rest: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
        return event({**head, "choices": [choice], **more})

    @functools.cache
    def form(index: int) -> EventForm:
        delta = {"content": EventForm.GAP}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return EventForm({**head, "choices": [choice], **more})

    try:
        for index in range(talk.generation.num_answers):
            yield frame(index, {"role": "assistant", "content": ""})
        async for chunk, pieces in talk.pieces():
            rest = _chunk_logprobs(answer, chunk)
            if not rest and len(pieces) == 1 and isinstance(pieces[0], Text):
                yield form(chunk.index).fill(pieces[0].text)
                pieces = []
            deltas = [_delta(piece) for piece in pieces]
            if rest and not deltas:
                deltas = [{"content": ""}]
            for delta in deltas:
                yield frame(chunk.index, delta, **rest)
                rest = {}
            if chunk.finish_reason is not None:
                reason = talk.finish_reason(chunk)
                yield frame(chunk.index, {}, finish_reason=reason, stop_reason=chunk.stop_reason)
        if include_usage:
            yield event({**head, "choices": [], "usage": usage_of(talk.generation.usage)})
        yield DONE
    finally:
        talk.generation.close()


def _chunk_logprobs(answer: _Answer, chunk: Chunk) -> dict[str, Any]:
    if chunk.logprob is None or chunk.token is None:
        return {}
    return {"logprobs": answer.logprobs([(chunk.token, chunk.logprob, chunk.top_logprobs)])}
