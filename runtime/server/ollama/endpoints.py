"""`/api/generate` and `/api/chat`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.prompting.filling import Hole
from trtcoder.prompting.prompts import Message
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.filling import Filling, start_filling
from trtcoder.runtime.server.fim.rendered import rendered_hole
from trtcoder.runtime.server.fim.routes import route_with
from trtcoder.runtime.server.ollama.answer import OllamaAnswer, said
from trtcoder.runtime.server.ollama.fields import (
    ChatRequest,
    GenerateRequest,
    OllamaRequest,
    Options,
    error_form,
)
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import line, unless_disconnected

router = APIRouter(tags=["Ollama"], route_class=route_with(error_form))


@router.post("/api/generate")
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Continue a prompt, or fill in the middle where there is a suffix."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    body.refuse("template", "images")
    if body.raw and (body.system or body.context):
        raise RequestError("raw: not together with system or context")
    if not body.prompt and not body.suffix:
        return _loaded(service, served, body, is_chat=False)
    generation = await _generation(body, request, service, served)
    return await _respond(service, served, request, body, generation, is_chat=False)


@router.post("/api/chat")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    body.refuse("tools", "trtcoder")
    if any(message.images for message in body.messages):
        raise RequestError("messages: images are not supported; this model takes text")
    if not body.messages:
        return _loaded(service, served, body, is_chat=True)
    messages = [Message(message.role, message.content) for message in body.messages]
    generation = _chat(body.options or Options(), messages, request, service, served)
    return await _respond(service, served, request, body, generation, is_chat=True)


async def _generation(
    body: GenerateRequest, request: Request, service: Service, served: Served
) -> AsyncGeneration | Filling:
    options = body.options or Options()
    hole = None
    if body.suffix:
        hole = Hole(body.prompt, body.suffix)
    elif body.raw:
        hole = rendered_hole(served, service.settings, body.prompt)
    if hole is not None:
        return await start_filling(
            service,
            served,
            request,
            hole,
            options.params(service, served),
            body.trtcoder,
            asked_tokens=options.limit,
        )
    if body.trtcoder is not None:
        raise RequestError("trtcoder: only where a middle is filled in")
    if not body.raw and served.llm.manifest.capabilities.chat:
        system = [Message("system", body.system)] if body.system else []
        return _chat(options, [*system, Message("user", body.prompt)], request, service, served)
    if body.system:
        raise RequestError(f"system: {served.name} was not trained to chat; leave it out")
    ids = served.llm.prompts.completion(body.prompt)
    return service.start(served, request, ids, options.params(service, served))


def _chat(
    options: Options, messages: list[Message], request: Request, service: Service, served: Served
) -> AsyncGeneration:
    prompts = served.llm.prompts
    continues = messages[-1].role == "assistant"
    ids = prompts.chat(messages, continue_last=continues)
    spaced = prompts.spaced_answers and not continues
    params = options.params(service, served)
    return service.start(served, request, ids, params, strip_leading_space=spaced)


def _loaded(service: Service, served: Served, body: OllamaRequest, *, is_chat: bool) -> Response:
    """Answer a request without a prompt, by which Ollama loads and unloads; we stay loaded."""
    reason = "unload" if body.keep_alive == 0 else "load"
    found: dict[str, Any] = {**said(served, "", is_chat), "done": True, "done_reason": reason}
    if body.stream is False:
        return JSONResponse(found)
    return Response(line(found), media_type="application/x-ndjson")


async def _respond(
    service: Service,
    served: Served,
    request: Request,
    body: OllamaRequest,
    generation: AsyncGeneration | Filling,
    *,
    is_chat: bool,
) -> Response:
    answer = OllamaAnswer(served, generation, is_chat=is_chat)
    headers = generation.headers if isinstance(generation, Filling) else {}
    try:
        if body.stream is not False:
            stream = service.stream(
                answer.frames(), media_type="application/x-ndjson", keep_alive=None
            )
            stream.headers.update(headers)
            return stream
        found = await unless_disconnected(request, answer.whole())
        return JSONResponse(found, headers=headers)
    except BaseException:
        generation.close()
        raise
