"""What llama-server tells of itself, and how a chat is written as a prompt."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.conversation import Conversation
from trtcoder.runtime.server.document.errors import LlamaError, answers
from trtcoder.runtime.server.document.others import Props, Slots, TemplateApplied
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.llama_cpp.generation_settings import generation_settings
from trtcoder.runtime.server.messages import ChatMessage, as_turns
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.tools.tool import ToolBox

router = APIRouter(tags=["llama.cpp"])


class TemplateRequest(BaseModel):
    """A conversation whose prompt is asked for."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    messages: list[ChatMessage]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool = True


@router.get("/props", responses=answers(Props, LlamaError, reads=True))
async def props(request: Request) -> dict[str, Any]:
    """Describe the server and its first engine."""
    served = Service.of(request).engines.get(None)
    llm, tokens = served.llm, served.llm.manifest.tokens
    defaults = SamplingParams().resolved(llm.settings.sampling)
    return {
        "default_generation_settings": {
            "params": generation_settings(defaults),
            "n_ctx": llm.context,
        },
        "total_slots": llm.settings.max_batch,
        "model_path": served.folder.name,
        "model_alias": served.name,
        "build_info": served.fingerprint,
        "modalities": {"vision": False, "audio": False},
        "chat_template": llm.prompts.template or "",
        "bos_token": "" if tokens.bos is None else llm.tokenizer.spell([tokens.bos]),
        "eos_token": llm.tokenizer.spell(tokens.eos[:1]),
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
    }


@router.get(
    "/slots",
    responses=answers(Slots, LlamaError, reads=True, busy="None is free, with fail_on_no_slot."),
)
async def slots(request: Request, model: str | None = None, fail_on_no_slot: str = "0") -> Any:
    """List as many slots as answers are computed at once. Nothing belongs to one of them.

    With ``fail_on_no_slot`` it is 503 where none is free.
    """
    served = Service.of(request).engines.get(model)
    busy, listed = served.llm.engine.thread.core.num_running, served.llm.settings.max_batch
    if fail_on_no_slot != "0" and busy >= listed:
        raise ApiError(503, "no slot is free", headers={"retry-after": "1"})
    return [_slot(served, number, number < busy) for number in range(listed)]


def _slot(served: Served, number: int, is_processing: bool) -> dict[str, Any]:
    return {
        "id": number,
        "n_ctx": served.llm.context,
        "speculative": False,
        "is_processing": is_processing,
    }


@router.post("/apply-template", responses=answers(TemplateApplied, LlamaError))
async def apply_template(body: TemplateRequest, request: Request) -> dict[str, str]:
    """Return a conversation's prompt, to be read: control tokens are spelled in it."""
    served = Service.of(request).engines.get(body.model)
    conversation = Conversation(
        as_turns(body.messages),
        ToolBox.of(body.tools, body.tool_choice, texts=True),
        begins=body.add_generation_prompt,
    )
    return {"prompt": served.llm.tokenizer.spell(conversation.prompt(served))}
