"""`/tokenize` and `/detokenize`, in llama.cpp's and vLLM's forms together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from trtcoder.errors import RequestError
from trtcoder.runtime.server.document.errors import answers
from trtcoder.runtime.server.document.others import Detokenized, Tokens
from trtcoder.runtime.server.messages import ChatMessage, as_messages
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["tokens"])


class TokenizeRequest(BaseModel):
    """Text, or messages in the model's chat format."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special: bool = False
    add_special_tokens: bool | None = None
    with_pieces: bool = False


class DetokenizeRequest(BaseModel):
    """Token ids."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: list[int]


@router.post("/tokenize", responses=answers(Tokens))
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Return the token ids of text; a spelled control token is text."""
    served = Service.of(request).engines.get(body.model)
    prompts = served.llm.prompts
    text = body.content if body.content is not None else body.prompt
    if body.messages is not None:
        ids = prompts.chat(as_messages(body.messages))
    elif text is None:
        raise RequestError("content: there is none; give content, prompt or messages")
    else:
        ids = prompts.tokenizer.encode(text)
        special = body.add_special if body.add_special_tokens is None else body.add_special_tokens
        if special:
            ids = [*prompts.start(), *ids]
    tokens: list[Any] = list(ids)
    if body.with_pieces:
        tokens = [{"id": token, "piece": _piece(served.llm.tokenizer.token_bytes(token))}
                  for token in ids]  # fmt: skip
    return {"tokens": tokens, "count": len(ids), "max_model_len": served.llm.context}


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
