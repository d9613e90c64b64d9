"""The kernels' threads, by a program of their own: `team.cpp`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from plugins.build import ROOT, compiler

KERNELS = ROOT / "kernels"


def test_a_team_does_all_pieces_and_waits_for_nobody_who_is_not_there(tmp_path: Path) -> None:
    command = compiler()
    if command is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "team"
    flags = ["-std=c++20", "-O1", "-g1", "-pthread", f"-I{ROOT}", "-o", str(program)]
    sanitizers = os.environ.get("TRTCODER_SANITIZE")
    if sanitizers:
        flags.append(f"-fsanitize={sanitizers}")
    sources = [Path(__file__).with_name("team.cpp"), KERNELS / "threads.cpp"]
    # A sanitizer that is loaded into this process is not for the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run([*command, *flags, *map(str, sources)], check=True, env=environment)
    result = subprocess.run([program], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
