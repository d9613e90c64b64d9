"""llama-server's `/infill` and `/completion`, as llama.vim and llama.vscode call them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.prompting.filling import Hole
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.server.document.errors import SSE, LlamaError, answers
from trtcoder.runtime.server.document.others import LlamaAnswers
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.error_forms import llama_cpp
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.fim.filling import Filling, start_filling
from trtcoder.runtime.server.fim.rendered import rendered_hole
from trtcoder.runtime.server.llama_cpp.answer import LlamaAnswer
from trtcoder.runtime.server.llama_cpp.fields import (
    CompletionRequest,
    Extra,
    InfillRequest,
    LlamaFields,
)
from trtcoder.runtime.server.merged import merge
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import event, unless_disconnected

router = APIRouter(tags=["llama.cpp"])


@router.post("/infill", responses=answers(LlamaAnswers, LlamaError, stream=SSE))
async def infill(body: InfillRequest, request: Request) -> Response:
    """Fill in the middle."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    hole = Hole(repository(body.input_extra) + body.input_prefix, body.input_suffix, body.prompt)
    filling = await _filling(service, served, request, body, hole)
    return await _respond(service, served, request, body, [filling])


@router.post("/completion", responses=answers(LlamaAnswers, LlamaError, stream=SSE))
@router.post("/completions", include_in_schema=False)
async def completion(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    params = body.params(service, served)
    generations: list[AsyncGeneration | Filling] = []
    try:
        for prompt in body.prompts():
            hole = None
            if isinstance(prompt, str):
                hole = rendered_hole(served, service.settings, prompt)
            if hole is not None:
                generations.append(await _filling(service, served, request, body, hole))
                continue
            if body.trtcoder is not None:
                raise RequestError("trtcoder: only where a middle is filled in")
            ids = _encoded(served, prompt)
            generations.append(await service.start(served, request, ids, params))
    except BaseException:
        for each in generations:
            each.close()
        raise
    if not generations:
        raise RequestError("prompt: there is none")
    return await _respond(service, served, request, body, generations)


def repository(extras: Sequence[Extra]) -> str:
    """Return pieces of other files as they stand before a prefix.

    DeepSeek's models know no token for a repository; a file begins with its name in a comment.
    """
    return "".join(
        f"#{extra.filename}\n{extra.text}{'' if extra.text.endswith(chr(10)) else chr(10)}"
        for extra in extras
    )


def _encoded(served: Served, prompt: str | Sequence[int | str]) -> list[int]:
    prompts = served.llm.prompts
    if isinstance(prompt, str):
        return prompts.completion(prompt)
    ids: list[int] = []
    for part in prompt:
        ids += [part] if isinstance(part, int) else prompts.tokenizer.encode(part)
    return ids


async def _filling(
    service: Service, served: Served, request: Request, body: LlamaFields, hole: Hole
) -> Filling:
    return await start_filling(
        service,
        served,
        request,
        hole,
        body.params(service, served),
        body.trtcoder,
        asked_tokens=body.n_predict if body.n_predict >= 0 else None,
    )


async def _respond(
    service: Service,
    served: Served,
    request: Request,
    body: LlamaFields,
    generations: Sequence[AsyncGeneration | Filling],
) -> Response:
    found: list[LlamaAnswer] = []
    headers: dict[str, str] = {}
    for each in generations:
        first = sum(before.num_answers for before in generations[: len(found)])
        found.append(LlamaAnswer(served, body, each, first))
        headers |= each.headers if isinstance(each, Filling) else {}
    try:
        if body.stream:
            stream = service.stream(_frames(found), failure=_failure)
            stream.headers.update(headers)
            return stream
        wholes = asyncio.gather(*(answer.whole() for answer in found))
        listed = [each for whole in await unless_disconnected(request, wholes) for each in whole]
        return JSONResponse(listed[0] if len(listed) == 1 else listed, headers=headers)
    except BaseException:
        for each in generations:
            each.close()
        raise


async def _frames(found: Sequence[LlamaAnswer]) -> AsyncIterator[bytes]:
    """Yield the events of the answers to all prompts as they come."""
    async for _, frame in merge((answer, answer.frames()) for answer in found):
        yield frame


def _failure(error: ApiError) -> bytes:
    return event(llama_cpp(error))
