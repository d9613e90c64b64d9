"""Quantized checkpoints of both kinds in every form, each built when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.quantized_checkpoints import FORMS, build, full_like, lite_like
from trtcoder.testing.random_checkpoint import write_random_checkpoint

KINDS = {"lite": lite_like, "236b": full_like}
Quantized = Callable[[str, str], Path]
Source = Callable[[str], Path]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("sources")

    @cache
    def write(kind: str) -> Path:
        return write_random_checkpoint(folder / kind, KINDS[kind]())

    return write


@pytest.fixture(scope="session")
def quantized(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder = tmp_path_factory.mktemp("quantized")

    @cache
    def made(kind: str, form: str) -> Path:
        out = folder / f"{kind}-{form}"
        build(source(kind), out, *FORMS[form], "--no-gate")
        return out

    return made
