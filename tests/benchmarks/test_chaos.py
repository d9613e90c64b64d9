from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from benchmarks.chaos.asking import is_idle, questions
from benchmarks.chaos.storm import KINDS, Storm, storm
from benchmarks.serving import serving
from tests.toy_engine import toy_manifest, write_toy_engine


def test_a_storm_leaves_right_answers_and_free_blocks(tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, max_positions=2048)
    manifest = dataclasses.replace(toy_manifest(chat=True), model=model)
    engine = write_toy_engine(tmp_path / "engine", manifest)
    known = questions(engine, count=4)

    async def asked(port: int, pid: int) -> tuple[Storm, bool]:
        return await storm(port, pid, known, 150, clients=8), await is_idle(port)

    with serving(engine, "--context", "1024") as server:
        found, idle = asyncio.run(asked(server.port, server.process.pid))
    assert found.wrong == []
    assert idle
    assert found.asked.keys() >= KINDS.keys() - {"giant body"}


def test_growth_is_that_of_the_end_over_the_end_of_the_warm_up() -> None:
    flat = Storm(resident=[(index, 50 if index < 20 else 100) for index in range(60)])
    assert flat.growth() == 0
    grown = Storm(resident=[(index, 100 + index) for index in range(60)])
    assert 0.25 < grown.growth() < 0.35
