"""Routes whose errors have their dialect's form."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import TrtcoderError
from trtcoder.runtime.server.errors import ApiError, as_api_error

ErrorForm = Callable[[ApiError], dict[str, Any]]


def route_with(form: ErrorForm) -> type[APIRoute]:
    """Return the class of routes whose errors ``form`` writes."""

    class DialectRoute(APIRoute):
        """A route that answers errors in its dialect."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Return the handler."""
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await handle(request)
                except (HTTPException, TrtcoderError, RequestValidationError) as error:
                    found = as_api_error(request, error)
                    return JSONResponse(form(found), found.status, headers=found.headers)

            return answer

    return DialectRoute
