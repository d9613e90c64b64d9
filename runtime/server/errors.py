"""Errors in the forms that OpenAI's and Anthropic's clients parse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from trtcoder.errors import BusyError, RequestError, TrtcoderError

# The parameter that a library's message begins with: "top_p is 2; …", "messages[3]: …".
_PARAMETER = re.compile(r"([a-z][a-z0-9_]*)(?:\[[^\]]*\]|\.[a-z_]+)*(?::| is | has )")

_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


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
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.message = message
        self.param = param
        self.code = code

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
            code = "context_length_exceeded" if "the context holds" in message else None
            return cls(400, message, param=found[1] if found else None, code=code)
        return cls(500, message, code="engine_failed")

    def body(self) -> dict[str, Any]:
        """Return the JSON of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 401:
            kind = "authentication_error"
        elif self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def anthropic_body(self) -> dict[str, Any]:
        """Return the JSON of the response in Anthropic's form."""
        other = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC.get(self.status, other)
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def response(self, path: str) -> JSONResponse:
        """Return the response, in the form of the dialect that ``path`` belongs to."""
        is_anthropic = path.startswith("/v1/messages")
        body = self.anthropic_body() if is_anthropic else self.body()
        return JSONResponse(body, self.status, headers=self.headers)


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
    return part.startswith(("list[", "function-", "constrained-")) or part in (
        "str",
        "int",
        "float",
    )
