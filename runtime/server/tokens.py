"""`/tokenize` and `/detokenize`, in llama.cpp's and vLLM's forms together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from trtcoder.errors import RequestError
from trtcoder.runtime.server.conversation import Conversation
from trtcoder.runtime.server.document.errors import answers
from trtcoder.runtime.server.document.others import Detokenized, Tokens
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.messages import ChatMessage, as_turns
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.tools.tool import ToolBox

router = APIRouter(tags=["tokens"])


class TokenizeRequest(BaseModel):
    """Text, or messages in the model's chat format.

    ``content`` is llama-server's, without BOS unless ``add_special`` says so; ``prompt`` is vLLM's,
    with BOS unless ``add_special_tokens`` says not.
    """

    model_config = ConfigDict(strict=True)

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special: bool = False
    add_special_tokens: bool | None = None
    with_pieces: bool = False
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """Token ids."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: list[int]


@router.post("/tokenize", responses=answers(Tokens))
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Return the token ids of text; a spelled control token is text."""
    served = Service.of(request).engines.get(body.model)
    ids = _ids(served, body)
    tokenizer = served.llm.tokenizer
    tokens: list[Any] = list(ids)
    if body.with_pieces:
        tokens = [{"id": token, "piece": _piece(tokenizer.token_bytes(token))} for token in ids]
    entries = [tokenizer.entry(token) for token in ids] if body.return_token_strs else None
    return {
        "tokens": tokens,
        "count": len(ids),
        "max_model_len": served.llm.context,
        "token_strs": entries,
    }


def _ids(served: Served, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        begins = "add_generation_prompt" in body.model_fields_set and body.add_generation_prompt
        if body.continue_final_message and begins:
            raise RequestError("add_generation_prompt: not together with continue_final_message")
        box = ToolBox.of(body.tools, texts=True)
        turns = as_turns(body.messages)
        return Conversation(
            turns, box, None, body.continue_final_message, body.add_generation_prompt
        ).prompt(served)
    text = body.prompt if body.content is None else body.content
    if text is None:
        raise RequestError("content: there is none; give content, prompt or messages")
    prompts = served.llm.prompts
    special = body.add_special_tokens
    if special is None:
        special = body.add_special or body.content is None
    return [*(prompts.start() if special else []), *prompts.tokenizer.encode(text)]


@router.post("/detokenize", responses=answers(Detokenized))
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """Return the text of token ids; control tokens have none."""
    served = Service.of(request).engines.get(body.model)
    text = served.text_of(body.tokens, "tokens")
    return {"content": text, "prompt": text}


def _piece(data: bytes) -> str | list[int]:
    """Return the text of a token, or its bytes where they are no text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return list(data)
