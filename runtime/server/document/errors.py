"""The bodies of errors, and which statuses a request may end with."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class OpenAIErrorDetail(BaseModel):
    """What was wrong; ``param`` names the parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error as OpenAI's clients parse it."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(BaseModel):
    """What was wrong."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """An error as Anthropic's clients parse it."""

    type: Literal["error"]
    error: AnthropicErrorDetail


class OllamaError(BaseModel):
    """An error as Ollama writes it."""

    error: str


class LlamaErrorDetail(BaseModel):
    """What was wrong; ``code`` is the status, and the numbers are of a prompt that does not fit."""

    code: int
    message: str
    type: str
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class LlamaError(BaseModel):
    """An error as llama-server writes it."""

    error: LlamaErrorDetail


# By status: of any request, and of those with a body.
READING = {
    401: "The API key is missing or wrong.",
    403: "The Host header is not served here.",
    404: "There is no such model.",
    413: "The body is too large.",
    500: "The server failed on this request.",
}
_ASKING = {
    400: "The request is wrong; the error names the parameter.",
    429: "The queue is full.",
    503: "The server drains, or no engine is loaded yet.",
}
SSE, LINES = "text/event-stream", "application/x-ndjson"
_EVENT = {
    "type": "object",
    "description": "An event; its data is JSON, or [DONE].",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_SECONDS = {"schema": {"type": "string"}, "description": "Seconds.", "required": True}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"headers": {"www-authenticate": {"schema": {"type": "string"}, "required": True}}},
    429: {"headers": {"retry-after": _SECONDS}},
    503: {"headers": {"retry-after": _SECONDS}},
}


def answers(
    model: type[BaseModel],
    error: type[BaseModel] = OpenAIError,
    *,
    stream: str | None = None,
    reads: bool = False,
    busy: str | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Return all answers of an endpoint, for its route.

    Args:
        model: of the whole answer.
        error: of its errors.
        stream: the type of an answer that is streamed.
        reads: it takes no body, and no engine computes.
        busy: when one that reads answers 503.
    """
    found: dict[str, Any] = {"model": model, "description": "The answer."}
    if stream is not None:
        found["description"] = "The answer, whole or as a stream."
        found["content"] = {stream: {"schema": _EVENT if stream == SSE else {"type": "string"}}}
    statuses = READING if reads else {**READING, **_ASKING}
    if busy is not None:
        statuses = {**statuses, 503: busy}
    return {
        200: found,
        **{
            status: {"model": error, "description": text, **_HEADERS.get(status, {})}
            for status, text in statuses.items()
        },
    }
