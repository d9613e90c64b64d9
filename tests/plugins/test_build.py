"""Compiling the kernels, and what there is where they cannot be compiled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.build import NO_COMPILER, library_platform
from tests.plugins.kernels import library
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "plugins" / "build.py"


def compile_to(path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the build with site-packages hidden: a compiler may come from there."""
    command = [sys.executable, "-S", str(BUILD), str(path), *options]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_without_a_compiler_it_says_how_to_get_one(tmp_path: Path) -> None:
    path = tmp_path / "kernels.so"
    for environment in ({"PATH": str(tmp_path), "CXX": ""}, {"TRTCODER_PLUGINS": "0"}):
        result = compile_to(path, **environment)
        assert result.returncode == NO_COMPILER
        assert "pip install ziglang" in result.stderr
        assert not path.exists()
    result = compile_to(path, "--target", "machine-of-nobody", CXX="")
    assert result.returncode == NO_COMPILER


def test_without_a_compiler_an_engine_is_built_and_answers(tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint", tiny_config())
    engine = tmp_path / "engine"
    environment = {**os.environ, "TRTCODER_PLUGINS": "0"}

    def trtcoder(*arguments: str) -> str:
        command = [sys.executable, "-c", "from trtcoder.cli import main; main()", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    trtcoder("build", str(checkpoint), "--out", str(engine), "--tokens", "64", "--no-gate")
    assert "TRTCODER_PLUGINS=0" in trtcoder("inspect", str(engine))
    answer = ("complete", str(engine), "def f(x):", "--max-tokens", "8", "--temperature", "0")
    assert trtcoder(*answer) == trtcoder(*answer)


def test_the_library_asks_for_nothing_but_the_systems_own() -> None:
    path = library().path
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("a sanitizer is compiled in")
    platform = library_platform(path)
    assert platform is not None
    assert re.fullmatch(r"manylinux_2_\d+_\w+", platform)


def test_a_file_that_is_no_library_has_no_platform(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"no library, though it names GLIBC_2.17")
    assert library_platform(path) is None
