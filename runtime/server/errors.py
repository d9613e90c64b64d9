"""Errors of requests: what they are to a client."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from trtcoder.errors import BusyError, ContextError, RequestError, TrtcoderError
from trtcoder.runtime.server.error_forms import form_of

# The parameter that a library's message begins with: "top_p is 2; …", "messages[3]: …".
_PARAMETER = re.compile(r"([a-z][a-z0-9_]*)(?:\[[^\]]*\]|\.[a-z_]+)*(?::| is | has )")

_UNSUPPORTED = re.compile(r"\b(?:it is|they are) not supported\b")


class ApiError(HTTPException):
    """An error of one request: its status, its message, and the parameter that is to blame."""

    # One of Starlette's own, since FastAPI turns others into 400 while it reads a body.

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        overflow: ContextError | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.overflow = overflow  # where the prompt does not fit

    @classmethod
    def of(cls, error: TrtcoderError, retry_after: float | None = None) -> ApiError:
        """Return what a library's error is to a client.

        A request that is wrong is 400, a full queue 429, and an engine's failure 500.
        """
        message = str(error)
        if isinstance(error, BusyError):
            closed = "closed" in message
            seconds = str(max(1, round(retry_after or 1)))
            return cls(
                503 if closed else 429,
                message,
                code="engine_closed" if closed else "queue_full",
                headers={"retry-after": seconds},
            )
        if isinstance(error, RequestError):
            found = _PARAMETER.match(message)
            overflow = error if isinstance(error, ContextError) else None
            code = "context_length_exceeded" if overflow else None
            if _UNSUPPORTED.search(message):
                code = "unsupported_parameter"
            param = found[1] if found else None
            return cls(400, message, param=param, code=code, overflow=overflow)
        return cls(500, message, code="engine_failed")

    def response(self, path: str) -> JSONResponse:
        """Return the response, in the form of the dialect that ``path`` belongs to."""
        return JSONResponse(form_of(path)(self), self.status, headers=self.headers)


def as_api_error(request: Request, error: Exception) -> ApiError:
    """Return what an error that a handler raised is to a client."""
    match error:
        case ApiError():
            return error
        case TrtcoderError():
            return ApiError.of(error)
        case RequestValidationError():
            return _invalid_body(error.errors())
        case HTTPException():
            message = {
                404: f"there is no {request.url.path} here; /docs lists what there is",
                405: f"{request.url.path} does not take {request.method}",
            }.get(error.status_code, str(error.detail))
            return ApiError(error.status_code, message, headers=error.headers)
    return ApiError(500, "the server failed on this request", code="internal_error")


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Answer any error that a handler raised."""
    return as_api_error(request, error).response(request.url.path)


def _invalid_body(details: Sequence[Any]) -> ApiError:
    """Return the error of a body that does not have the form of its endpoint: 400, naming it."""
    if not details:
        return ApiError(400, "the body is malformed")
    first = details[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query")]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.get('ctx', {}).get('error')}")
    # Unions add the name of each form that was tried; a client's name comes first.
    name = place[0] if place else None
    where = ".".join(part for part in place if not _is_form(part))
    return ApiError(400, f"{where or 'the body'}: {first['msg']}", param=name)


def _is_form(part: str) -> bool:
    kinds = ("list[", "dict[", "function-", "constrained-")
    return part.startswith(kinds) or part in ("str", "int", "float", "bool")
