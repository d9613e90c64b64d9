"""Errors as the clients of each dialect parse them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcoder.runtime.server.errors import ApiError

ErrorForm = Callable[["ApiError"], dict[str, Any]]

_OPENAI = {401: "authentication_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_LLAMA_CPP_PATHS = frozenset(
    {"infill", "completion", "completions", "props", "slots", "apply-template"}
)
_LLAMA_CPP = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "unavailable_error",
}


def openai(error: ApiError) -> dict[str, Any]:
    """Return an error as OpenAI's clients parse it, and all that have no dialect of their own."""
    kind = _OPENAI.get(error.status, _other(error, "server_error"))
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def anthropic(error: ApiError) -> dict[str, Any]:
    """Return an error as Anthropic's clients parse it."""
    kind = _ANTHROPIC.get(error.status, _other(error, "api_error"))
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def llama_cpp(error: ApiError) -> dict[str, Any]:
    """Return an error as llama-server writes it."""
    found = {"code": error.status, "message": error.message}
    if error.overflow is not None:
        numbers = {"n_prompt_tokens": error.overflow.num_tokens, "n_ctx": error.overflow.context}
        return {"error": {**found, "type": "exceed_context_size_error", **numbers}}
    return {"error": {**found, "type": _LLAMA_CPP.get(error.status, _other(error, "server_error"))}}


def ollama(error: ApiError) -> dict[str, Any]:
    """Return an error as Ollama writes it."""
    return {"error": error.message}


def form_of(path: str) -> ErrorForm:
    """Return the form of errors in the dialect that ``path`` belongs to."""
    first = path.split("/", 2)[1:2]
    if first == ["api"]:
        return ollama
    if first and first[0] in _LLAMA_CPP_PATHS:
        return llama_cpp
    return anthropic if path.startswith("/v1/messages") else openai


def _other(error: ApiError, failure: str) -> str:
    return failure if error.status >= 500 else "invalid_request_error"
