"""`/v1/chat/completions`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.events import Chunk, TokenLogprob
from trtcoder.runtime.requests.outputs import CompletionOutput
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fields import SamplingFields
from trtcoder.runtime.server.messages import ChatMessage, as_messages
from trtcoder.runtime.server.service import Service, finish, usage_of
from trtcoder.runtime.server.streams import DONE, event, unless_disconnected

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


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: only with stream")
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs: only with logprobs")
    prompts = served.llm.prompts
    continues = body.continue_final_message or bool(body.messages and body.messages[-1].prefix)
    ids = prompts.chat(as_messages(body.messages), continue_last=continues)
    asked = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = body.params(service.limit(served, asked), logprobs=logprobs)
    spaced = prompts.spaced_answers and not continues
    await service.compile(served, params, spaced=spaced)
    generation = service.start(served, request, ids, params, strip_leading_space=spaced)
    answer = _Answer(served, body, generation)
    try:
        if body.stream:
            return service.stream(_frames(answer))
        return JSONResponse(await unless_disconnected(request, _whole(answer)))
    except BaseException:
        generation.close()
        raise


class _Answer:
    """Writes choices in OpenAI's form."""

    def __init__(self, served: Served, body: ChatRequest, generation: AsyncGeneration) -> None:
        self.served, self.body, self.generation = served, body, generation
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
    generation = answer.generation
    outputs = [CompletionOutput(index) for index in range(generation.num_answers)]
    try:
        async for chunk in generation:
            outputs[chunk.index].add(chunk)
    finally:
        generation.close()
    choices = [
        {
            "index": output.index,
            "message": {"role": "assistant", "content": output.text},
            "logprobs": None
            if output.logprobs is None
            else answer.logprobs(
                [
                    (token, *each)
                    for token, each in zip(output.token_ids, output.logprobs, strict=False)
                ]
            ),
            "finish_reason": finish(output.finish_reason),
            "stop_reason": output.stop_reason,
        }
        for output in outputs
    ]
    return {
        **answer.head,
        "object": "chat.completion",
        "choices": choices,
        "usage": usage_of(generation.usage),
    }


async def _frames(answer: _Answer) -> AsyncIterator[bytes]:
    """Yield the role, the text as it comes, one finish a choice, the usage and the end."""
    body, generation = answer.body, answer.generation
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if include_usage else {}
    head = {**answer.head, "object": "chat.completion.chunk"}

    def frame(index: int, delta: dict[str, Any], **rest: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
        return event({**head, "choices": [choice], **more})

    try:
        for index in range(generation.num_answers):
            yield frame(index, {"role": "assistant", "content": ""})
        async for chunk in generation:
            rest = _chunk_logprobs(answer, chunk)
            if chunk.text or rest:
                yield frame(chunk.index, {"content": chunk.text}, **rest)
            if chunk.finish_reason is not None:
                reason = finish(chunk.finish_reason)
                yield frame(chunk.index, {}, finish_reason=reason, stop_reason=chunk.stop_reason)
        if include_usage:
            yield event({**head, "choices": [], "usage": usage_of(generation.usage)})
        yield DONE
    finally:
        generation.close()


def _chunk_logprobs(answer: _Answer, chunk: Chunk) -> dict[str, Any]:
    if chunk.logprob is None or chunk.token is None:
        return {}
    return {"logprobs": answer.logprobs([(chunk.token, chunk.logprob, chunk.top_logprobs)])}
