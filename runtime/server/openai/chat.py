"""`/v1/chat/completions`."""

from __future__ import annotations

import functools
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.server.conversation import Conversation, Said, Talk
from trtcoder.runtime.server.document.errors import SSE, answers
from trtcoder.runtime.server.document.openai import ChatCompletion, InputTokens
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.messages import ChatMessage, as_turns
from trtcoder.runtime.server.openai.token_fields import TokenFields
from trtcoder.runtime.server.openai.token_names import TokenNames
from trtcoder.runtime.server.openai.usage import StreamUsage, counted, usage_of
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import DONE, EventForm, event, unless_disconnected
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, Piece, Text
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall

router = APIRouter(tags=["chat"])
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ChatRequest(TokenFields):
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
    # Of vLLM: the text that was sent, before the answer to it.
    echo: bool | None = None
    # What tools replaced.
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None

    def conversation(self) -> Conversation:
        """Return the conversation.

        Raises:
            RequestError: something that is not supported, or contradicts itself.
        """
        if self.echo:
            raise RequestError(
                "echo: it is not supported in a chat; put your text before the answer"
            )
        if self.functions or self.function_call:
            raise RequestError("functions: they are not supported; use tools and tool_choice")
        begins = "add_generation_prompt" in self.model_fields_set and self.add_generation_prompt
        if self.continue_final_message and begins:
            raise RequestError("add_generation_prompt: not together with continue_final_message")
        parallel = self.parallel_tool_calls is not False
        return Conversation(
            as_turns(self.messages),
            ToolBox.of(self.tools, self.tool_choice, parallel=parallel, texts=True),
            self.constraint(),
            self.continue_final_message or bool(self.messages and self.messages[-1].prefix),
            self.add_generation_prompt,
        )


@router.post("/v1/chat/completions", responses=answers(ChatCompletion, stream=SSE))
@router.post("/chat/completions", include_in_schema=False)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    body.check()
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs: only with logprobs")
    conversation = body.conversation()
    asked = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    params = body.params(
        service.limit(served, asked),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
        constraint=conversation.constraint(),
    )
    talk = await conversation.start(
        service,
        served,
        request,
        params,
        cut=functools.partial(body.cut, served),
        salt=body.cache_salt or "",
    )
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


@router.post("/v1/chat/completions/input_tokens", responses=answers(InputTokens))
async def input_tokens(body: ChatRequest, request: Request) -> dict[str, Any]:
    """Count the tokens of a prompt."""
    served = Service.of(request).engines.get(body.model)
    return counted(body.cut(served, body.conversation().prompt(served)))


class _Answer:
    """Writes choices in OpenAI's form."""

    def __init__(self, served: Served, body: ChatRequest, talk: Talk) -> None:
        self.body, self.talk = body, talk
        self.names = TokenNames(served, as_ids=bool(body.return_tokens_as_token_ids))
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    def usage(self) -> dict[str, Any]:
        """Return what the request has cost."""
        return usage_of(self.talk.generation.usage)

    def of_prompt(self) -> dict[str, Any]:
        """Return what vLLM's clients ask to be told of the prompt, None where they do not."""
        generation, count = self.talk.generation, self.body.prompt_logprobs
        told: dict[str, Any] = {"prompt_token_ids": None, "prompt_logprobs": None}
        if count is not None and generation.prompt_logprobs is not None:
            found = generation.prompt_logprobs
            told["prompt_logprobs"] = self.names.prompt(generation.prompt_ids, found, count)
        if self.body.return_token_ids:
            told["prompt_token_ids"] = list(generation.prompt_ids)
        return told


async def _whole(answer: _Answer) -> dict[str, Any]:
    body = answer.body
    choices = [
        {
            "index": index,
            "message": _message(said),
            "logprobs": answer.names.chat(said.logprobs) if body.logprobs else None,
            "finish_reason": said.finish_reason,
            "stop_reason": said.stop_reason,
            "token_ids": said.ids if body.return_token_ids else None,
        }
        for index, said in enumerate(await answer.talk.whole())
    ]
    return {
        **answer.head,
        "object": "chat.completion",
        "choices": choices,
        "usage": answer.usage(),
        **answer.of_prompt(),
    }


def _message(said: Said) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text}
    if said.calls:
        message["content"] = said.text or None
        message["tool_calls"] = [{"id": call.id, **_called(call)} for call in said.calls]
    return message


def _called(call: ToolCall) -> dict[str, Any]:
    """Return what is called and with what: a function, or a tool that takes text."""
    if call.is_text:
        return {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _delta(piece: Piece, texts: set[int]) -> dict[str, Any]:
    """Return the delta of a piece; ``texts`` keeps the numbers of calls that take text."""
    match piece:
        case Text():
            return {"content": piece.text}
        case CallBegins():
            if piece.is_text:
                texts.add(piece.number)
            call = _called(ToolCall(piece.id, piece.name, "", piece.is_text))
            return {"tool_calls": [{"index": piece.number, "id": piece.id, **call}]}
        case Arguments():
            more = {"input": piece.text} if piece.number in texts else {"arguments": piece.text}
            kind = "custom" if piece.number in texts else "function"
            return {"tool_calls": [{"index": piece.number, kind: more}]}


async def _frames(answer: _Answer) -> AsyncIterator[bytes]:
    """Yield the role, what comes, one finish a choice, the usage and the end."""
    talk = answer.talk
    usage = StreamUsage(answer.body.stream_options, answer.usage)
    head = {**answer.head, "object": "chat.completion.chunk"}
    texts: dict[int, set[int]] = defaultdict(set)

    def frame(
        index: int, delta: dict[str, Any], more: Mapping[str, Any] = _NOTHING, **rest: Any
    ) -> bytes:
        if answer.body.return_token_ids:
            rest.setdefault("token_ids", [])
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
        return event({**head, "choices": [choice], **more, **usage.of_chunk()})

    @functools.cache
    def form(index: int) -> EventForm:
        delta = {"content": EventForm.GAP}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return EventForm({**head, "choices": [choice], **usage.of_chunk()})

    try:
        for index in range(talk.generation.num_answers):
            told = answer.of_prompt() if index == 0 else {}
            more = {name: value for name, value in told.items() if value is not None}
            yield frame(index, {"role": "assistant", "content": ""}, more)
        async for chunk, pieces in talk.pieces():
            usage.count(chunk)
            rest = _of_chunk(answer, chunk)
            is_plain = not rest and not usage.is_continuous
            if is_plain and len(pieces) == 1 and isinstance(pieces[0], Text):
                yield form(chunk.index).fill(pieces[0].text)
                pieces = []
            deltas = [_delta(piece, texts[chunk.index]) for piece in pieces]
            if rest and not deltas:
                deltas = [{"content": ""}]
            for delta in deltas:
                yield frame(chunk.index, delta, **rest)
                rest = {}
            if chunk.finish_reason is not None:
                reason = talk.finish_reason(chunk)
                yield frame(chunk.index, {}, finish_reason=reason, stop_reason=chunk.stop_reason)
        if usage.is_asked:
            yield event({**head, "choices": [], "usage": answer.usage()})
        yield DONE
    finally:
        talk.generation.close()


def _of_chunk(answer: _Answer, chunk: Chunk) -> dict[str, Any]:
    """Return what is told of a chunk's token beside its text."""
    if chunk.token is None:
        return {}
    told: dict[str, Any] = {}
    if answer.body.return_token_ids:
        told["token_ids"] = [chunk.token]
    if chunk.logprob is not None:
        told["logprobs"] = answer.names.chat([(chunk.token, chunk.logprob, chunk.top_logprobs)])
    return told
