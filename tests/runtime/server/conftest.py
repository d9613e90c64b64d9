"""Servers that several files of tests ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import CLOCK, SPOKEN, WEATHER, roomy_engine


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine has room for tools."""
    folder = roomy_engine(tmp_path_factory.mktemp("toy") / "engine")
    with serve(folder, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of an engine for each answer of SPOKEN, which it gives to TALK with both tools."""
    work = tmp_path_factory.mktemp("speaking")
    tools = [WEATHER, CLOCK]
    first, *others = (
        roomy_engine(work / name, spoken.answer, tools=tools, name=name)
        for name, spoken in SPOKEN.items()
    )
    with serve(first, work, engines=others) as started:
        yield started
