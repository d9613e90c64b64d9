"""A real Triton server for the tests of this folder, which `make triton` installs and asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.runtime.server.talking import roomy_engine
from tests.runtime.triton.server.running import Triton, serve
from trtcoder.cli import main

# A gigabyte of downloads, and minutes.
collect_ignore_glob = [] if os.environ.get("TRTCODER_TRITON") else ["test_*.py"]


@dataclass(frozen=True, slots=True)
class Served:
    """A server, and the engine that it serves."""

    triton: Triton
    engine: Path
    repository: Path


def write(engine: Path, repository: Path, *options: str) -> Path:
    """Write a repository."""
    result = CliRunner().invoke(main, ["triton", str(engine), "-o", str(repository), *options])
    assert result.exit_code == 0, result.output
    return repository


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a toy engine under all names."""
    work = tmp_path_factory.mktemp("triton")
    engine = roomy_engine(work / "engine")
    repository = write(engine, work / "repository", "--older-names", "--max-batch", "4")
    with serve(repository, work, "--model-control-mode", "none") as triton:
        yield Served(triton, engine, repository)
