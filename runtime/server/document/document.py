"""Makes the document that `/openapi.json` gives."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from trtcoder.runtime.server.guard import is_open

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def describe(app: FastAPI, *, has_keys: bool) -> None:
    """Have ``app`` describe itself as it answers.

    A body that is malformed is 400 here, and FastAPI would promise 422; keys are asked for where
    the operator has given some.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            for path, methods in found["paths"].items():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
                    if has_keys and not is_open(path):
                        operation["security"] = [{name: []} for name in _SCHEMES]
            schemas = found["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            if has_keys:
                found["components"]["securitySchemes"] = _SCHEMES
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
