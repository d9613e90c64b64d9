"""`/v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from trtcoder.runtime.server.document.errors import answers
from trtcoder.runtime.server.document.openai import ServedModel, ServedModels
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["models"])


@router.get("/models", include_in_schema=False)
@router.get("/v1/models", responses=answers(ServedModels, reads=True))
async def models(request: Request) -> dict[str, Any]:
    """List the engines that are served."""
    service = Service.of(request)
    return {"object": "list", "data": [_describe(served) for served in service.engines.all()]}


@router.get("/v1/models/{model:path}", responses=answers(ServedModel, reads=True))
async def model(request: Request, model: str) -> dict[str, Any]:
    """Describe one engine."""
    return _describe(Service.of(request).engines.get(model))


def _describe(served: Served) -> dict[str, Any]:
    manifest = served.llm.manifest
    can = manifest.capabilities
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "trtcoder",
        "root": served.name,
        "parent": None,
        "max_model_len": served.llm.context,
        "capabilities": {"completion": can.completion, "fim": can.fim, "chat": can.chat},
        "certificate": manifest.parity,
        "system_fingerprint": served.fingerprint,
    }
