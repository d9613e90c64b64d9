"""What Ollama says of its models: `/api/tags`, `/api/show`, `/api/ps`, `/api/version`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from trtcoder.runtime.server.document.errors import OllamaError, answers
from trtcoder.runtime.server.document.others import OllamaModels, OllamaShown, OllamaVersion
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.ollama.fields import ShowRequest
from trtcoder.runtime.server.service import Service

router = APIRouter(tags=["Ollama"])

# Of the API that is spoken here; editors refuse servers that say less than what they need.
_VERSION = "0.9.0"
_NEVER = "2318-01-01T00:00:00Z"
_FAMILY = "deepseek2"


@router.get("/api/version", responses=answers(OllamaVersion, OllamaError, reads=True))
async def version() -> dict[str, str]:
    """Return the version of the API."""
    return {"version": _VERSION}


@router.get("/api/tags", responses=answers(OllamaModels, OllamaError, reads=True))
async def tags(request: Request) -> dict[str, Any]:
    """List the engines."""
    return {"models": [_entry(each) for each in Service.of(request).engines.all()]}


@router.get("/api/ps", responses=answers(OllamaModels, OllamaError, reads=True))
async def loaded(request: Request) -> dict[str, Any]:
    """List the engines that are loaded, which all are."""
    return {
        "models": [
            {
                **_entry(each),
                "expires_at": _NEVER,
                "size_vram": 0,
                "context_length": each.llm.context,
            }
            for each in Service.of(request).engines.all()
        ]
    }


@router.post("/api/show", responses=answers(OllamaShown, OllamaError))
async def show(body: ShowRequest, request: Request) -> dict[str, Any]:
    """Describe an engine."""
    served = Service.of(request).engines.get(body.model or body.name)
    can = served.llm.manifest.capabilities
    capabilities = ["completion"] + ["insert"] * can.fim + ["tools"] * can.chat
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "modified_at": _modified(served),
        "details": _details(served),
        "model_info": {
            "general.architecture": _FAMILY,
            "general.basename": served.llm.manifest.model.name,
            f"{_FAMILY}.context_length": served.llm.context,
            f"{_FAMILY}.vocab_size": served.llm.manifest.model.vocab_size,
        },
        "capabilities": capabilities,
    }


def _entry(served: Served) -> dict[str, Any]:
    name = f"{served.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(served),
        "size": sum(path.stat().st_size for path in served.folder.iterdir() if path.is_file()),
        "digest": served.fingerprint.removeprefix("trtcoder-"),
        "details": _details(served),
    }


def _details(served: Served) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "onnx",
        "family": _FAMILY,
        "families": [_FAMILY],
        "parameter_size": "",
        "quantization_level": str(served.llm.manifest.recipe.get("weights", "")),
    }


def _modified(served: Served) -> str:
    return datetime.fromtimestamp(served.created, UTC).isoformat().replace("+00:00", "Z")
