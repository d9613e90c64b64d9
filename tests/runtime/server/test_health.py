from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.toy_engine import write_toy_engine
from trtcoder import LLM, SamplingParams
from trtcoder.errors import EngineError
from trtcoder.runtime.server.app import create_app
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.settings import ServerSettings


def test_an_engine_whose_thread_failed_wants_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_toy_engine(tmp_path / "engine")
    engines = Engines()
    with LLM(folder) as llm:
        engines.add(folder, llm)
        app = create_app(engines, ServerSettings())

        async def statuses() -> list[tuple[int, str]]:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                answers = [await client.get(f"/health/{name}") for name in ("live", "ready")]
            return [(each.status_code, each.json()["status"]) for each in answers]

        assert asyncio.run(statuses()) == [(200, "live"), (200, "ok")]

        def fail() -> None:
            raise MemoryError("no room for a step")

        monkeypatch.setattr(llm.engine.thread.core, "step", fail)
        with pytest.raises(EngineError, match="no room for a step"):
            llm.generate("a", SamplingParams(max_tokens=1), progress=False)
        assert asyncio.run(statuses()) == [(503, "not live"), (503, "not ready")]
