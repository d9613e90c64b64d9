"""One browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import build_engine
from tests.runtime.server.page.browser import Browser, start_browser
from tests.runtime.server.serving import Server, serve
from trtcoder.checkpoint.reader import Checkpoint

DEMO = Path(__file__).parents[4] / "demo" / "checkpoint"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an engine that says something sensible."""
    folder = tmp_path_factory.mktemp("demo")
    engine = build_engine(Checkpoint.open(DEMO), folder / "engine", "fp32")
    with serve(engine.folder, folder) as started:
        yield started
