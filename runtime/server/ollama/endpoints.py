"""`/api/generate` and `/api/chat`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.prompting.filling import Hole
from trtcoder.runtime.server.conversation import Conversation, Talk
from trtcoder.runtime.server.document.errors import LINES, OllamaError, answers
from trtcoder.runtime.server.document.others import OllamaChatted, OllamaGenerated
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.error_forms import ollama
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.fim.filling import Filling, start_filling
from trtcoder.runtime.server.fim.rendered import rendered_hole
from trtcoder.runtime.server.ollama.answer import OllamaAnswer, said
from trtcoder.runtime.server.ollama.fields import (
    ChatRequest,
    GenerateRequest,
    OllamaRequest,
    Options,
)
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.streams import line, unless_disconnected
from trtcoder.runtime.server.tools.turn import Turn

router = APIRouter(tags=["Ollama"])


@router.post("/api/generate", responses=answers(OllamaGenerated, OllamaError, stream=LINES))
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Continue a prompt, or fill in the middle where there is a suffix."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    body.refuse("template", "images")
    if body.raw and (body.system or body.context):
        raise RequestError("raw: not together with system or context")
    if not body.prompt and not body.suffix:
        return _loaded(served, body, is_chat=False)
    talk = await _talk(body, request, service, served)
    return await _respond(service, served, request, body, talk, is_chat=False)


@router.post("/api/chat", responses=answers(OllamaChatted, OllamaError, stream=LINES))
async def chat(body: ChatRequest, request: Request) -> Response:
    """Write the next answer of a conversation."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    body.refuse("trtcoder")
    if not body.messages:
        return _loaded(served, body, is_chat=True)
    conversation = body.conversation()
    options = body.options or Options()
    params = options.params(service, served, conversation.constraint())
    talk = await conversation.start(service, served, request, params)
    return await _respond(service, served, request, body, talk, is_chat=True)


async def _talk(body: GenerateRequest, request: Request, service: Service, served: Served) -> Talk:
    options = body.options or Options()
    params = options.params(service, served, body.form())
    hole = None
    if body.suffix:
        hole = Hole(body.prompt, body.suffix)
    elif body.raw:
        hole = rendered_hole(served, service.settings, body.prompt)
    if hole is not None:
        filling = await start_filling(
            service, served, request, hole, params, body.trtcoder, asked_tokens=options.limit
        )
        return Talk(filling)
    if body.trtcoder is not None:
        raise RequestError("trtcoder: only where a middle is filled in")
    if not body.raw and served.llm.manifest.capabilities.chat:
        system = [Turn("system", body.system)] if body.system else []
        conversation = Conversation((*system, Turn("user", body.prompt)))
        return await conversation.start(service, served, request, params)
    if body.system:
        raise RequestError(f"system: {served.name} was not trained to chat; leave it out")
    ids = served.llm.prompts.completion(body.prompt)
    return Talk(await service.start(served, request, ids, params))


def _loaded(served: Served, body: OllamaRequest, *, is_chat: bool) -> Response:
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
    talk: Talk,
    *,
    is_chat: bool,
) -> Response:
    answer = OllamaAnswer(served, talk, is_chat=is_chat)
    headers = talk.generation.headers if isinstance(talk.generation, Filling) else {}
    try:
        if body.stream is not False:
            stream = service.stream(
                answer.frames(),
                media_type="application/x-ndjson",
                keep_alive=None,
                failure=_failure,
            )
            stream.headers.update(headers)
            return stream
        found = await unless_disconnected(request, answer.whole())
        return JSONResponse(found, headers=headers)
    except BaseException:
        talk.generation.close()
        raise


def _failure(error: ApiError) -> bytes:
    return line(ollama(error))
