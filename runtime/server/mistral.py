"""Mistral's `/v1/fim/completions`, which Continue speaks too: a hole, answered as by a chat."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.prompting.filling import Hole
from trtcoder.runtime.requests.outputs import CompletionOutput
from trtcoder.runtime.server.document.errors import SSE, answers
from trtcoder.runtime.server.document.openai import FimCompletion
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fields import SamplingFields
from trtcoder.runtime.server.fim.filling import Filling, start_filling
from trtcoder.runtime.server.fim.options import FimOptions
from trtcoder.runtime.server.openai.usage import usage_of
from trtcoder.runtime.server.service import Service, finish
from trtcoder.runtime.server.streams import DONE, event, unless_disconnected

router = APIRouter(tags=["fill in the middle"])


class FimRequest(SamplingFields):
    """Text before and behind a hole."""

    prompt: str
    suffix: str | None = None
    random_seed: int | None = None
    trtcoder: FimOptions | None = None


@router.post("/v1/fim/completions", responses=answers(FimCompletion, stream=SSE))
@router.post("/fim/completions", include_in_schema=False)
async def fill(body: FimRequest, request: Request) -> Response:
    """Fill in the middle."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: only with stream")
    more = {} if body.random_seed is None else {"seed": body.random_seed}
    params = body.params(service.limit(served, body.max_tokens), **more)
    filling = await start_filling(
        service,
        served,
        request,
        Hole(body.prompt, body.suffix or ""),
        params,
        body.trtcoder,
        asked_tokens=body.max_tokens,
    )
    try:
        if body.stream:
            stream = service.stream(_frames(served, body, filling))
            stream.headers.update(filling.headers)
            return stream
        whole = await unless_disconnected(request, _whole(served, filling))
        return JSONResponse(whole, headers=filling.headers)
    except BaseException:
        filling.close()
        raise


def _head(served: Served) -> dict[str, Any]:
    return {
        "id": f"fim-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.fingerprint,
    }


async def _whole(served: Served, filling: Filling) -> dict[str, Any]:
    outputs = [CompletionOutput(index) for index in range(filling.num_answers)]
    try:
        async for chunk in filling:
            outputs[chunk.index].add(chunk)
    finally:
        filling.close()
    choices = [
        {
            "index": output.index,
            "message": {"role": "assistant", "content": output.text},
            "finish_reason": finish(output.finish_reason),
        }
        for output in outputs
    ]
    head = {**_head(served), "object": "chat.completion"}
    return {**head, "choices": choices, "usage": usage_of(filling.usage)}


async def _frames(served: Served, body: FimRequest, filling: Filling) -> AsyncIterator[bytes]:
    """Yield deltas that all have content, which Continue reads unchecked."""
    head = {**_head(served), "object": "chat.completion.chunk"}
    asks_usage = body.stream_options is not None and body.stream_options.include_usage
    begun: set[int] = set()

    def frame(index: int, text: str, reason: str | None = None) -> bytes:
        role = {} if index in begun else {"role": "assistant"}
        begun.add(index)
        delta = {**role, "content": text}
        return event(
            {**head, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}
        )

    try:
        async for chunk in filling:
            if chunk.text:
                yield frame(chunk.index, chunk.text)
            if chunk.finish_reason is not None:
                yield frame(chunk.index, "", finish(chunk.finish_reason))
        if asks_usage:
            yield event({**head, "choices": [], "usage": usage_of(filling.usage)})
        yield DONE
    finally:
        filling.close()
