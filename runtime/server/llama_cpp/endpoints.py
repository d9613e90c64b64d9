"""llama-server's `/infill` and `/completion`, as llama.vim and llama.vscode call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.prompting.filling import Hole
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.server.document.errors import SSE, LlamaError, answers
from trtcoder.runtime.server.document.others import LlamaAnswers, Props
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
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import event, unless_disconnected

router = APIRouter(tags=["llama.cpp"])


@router.post("/infill", responses=answers(LlamaAnswers, LlamaError, stream=SSE))
async def infill(body: InfillRequest, request: Request) -> Response:
    """Fill in the middle."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    hole = Hole(repository(body.input_extra) + body.input_prefix, body.input_suffix, body.prompt)
    return await _fill(service, served, request, body, hole)


@router.post("/completion", responses=answers(LlamaAnswers, LlamaError, stream=SSE))
async def completion(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    prompts = served.llm.prompts
    hole = None
    if isinstance(body.prompt, str):
        hole = rendered_hole(served, service.settings, body.prompt)
    if hole is not None:
        return await _fill(service, served, request, body, hole)
    if body.trtcoder is not None:
        raise RequestError("trtcoder: only where a middle is filled in")
    if isinstance(body.prompt, str):
        ids = prompts.completion(body.prompt)
    else:
        ids = []
        for part in body.prompt:
            ids += [part] if isinstance(part, int) else prompts.tokenizer.encode(part)
    generation = await service.start(served, request, ids, body.params(service, served))
    return await _respond(service, served, request, body, generation)


@router.get("/props", responses=answers(Props, LlamaError, reads=True))
async def props(request: Request) -> dict[str, Any]:
    """Describe the server and its first engine."""
    service = Service.of(request)
    served = service.engines.get(None)
    return {
        "default_generation_settings": {"n_ctx": served.llm.context},
        "total_slots": served.llm.settings.max_batch,
        "model_path": served.folder.name,
        "model_alias": served.name,
        "build_info": served.fingerprint,
        "modalities": {"vision": False, "audio": False},
    }


def repository(extras: Sequence[Extra]) -> str:
    """Return pieces of other files as they stand before a prefix.

    DeepSeek's models know no token for a repository; a file begins with its name in a comment.
    """
    return "".join(
        f"#{extra.filename}\n{extra.text}{'' if extra.text.endswith(chr(10)) else chr(10)}"
        for extra in extras
    )


async def _fill(
    service: Service, served: Served, request: Request, body: LlamaFields, hole: Hole
) -> Response:
    filling = await start_filling(
        service,
        served,
        request,
        hole,
        body.params(service, served),
        body.trtcoder,
        asked_tokens=body.n_predict if body.n_predict >= 0 else None,
    )
    return await _respond(service, served, request, body, filling)


async def _respond(
    service: Service,
    served: Served,
    request: Request,
    body: LlamaFields,
    generation: AsyncGeneration | Filling,
) -> Response:
    answer = LlamaAnswer(served, body, generation)
    headers = generation.headers if isinstance(generation, Filling) else {}
    try:
        if body.stream:
            stream = service.stream(answer.frames(), failure=_failure)
            stream.headers.update(headers)
            return stream
        found = await unless_disconnected(request, answer.whole())
        return JSONResponse(found, headers=headers)
    except BaseException:
        generation.close()
        raise


def _failure(error: ApiError) -> bytes:
    return event(llama_cpp(error))
