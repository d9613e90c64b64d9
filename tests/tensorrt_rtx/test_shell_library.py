"""Libraries that have a name and little else, as the system's loader sees them."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trtcoder.tensorrt_rtx.shell_library import shell_library

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="shell libraries are for x86-64 Linux",
)
# Loads the libraries that it is given, then says what the loader finds under bare names.
LOOK = """
import ctypes, json, sys
for path in json.loads(sys.argv[1]):
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
found = {}
for name, function in json.loads(sys.argv[2]):
    found[f"{name}:{function}"] = getattr(ctypes.CDLL(name), function)(1, 2, 3)
print(json.dumps(found))
"""


def look(paths: list[Path], *wanted: tuple[str, str]) -> dict[str, int]:
    """Return what functions of libraries return, in a process of its own."""
    command = [sys.executable, "-c", LOOK, json.dumps(list(map(str, paths))), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_its_functions_say_that_there_is_no_device(tmp_path: Path, count: int) -> None:
    path, names = tmp_path / "any.so", [f"function{number}" for number in range(count)]
    path.write_bytes(shell_library("libshell.so.1", names))
    wanted = [("libshell.so.1", name) for name in names]
    assert look([path], *wanted) == {f"libshell.so.1:{name}": 100 for name in names}


def test_what_it_needs_is_found_under_its_name(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.so", tmp_path / "outer.so"
    inner.write_bytes(shell_library("libinner.so.1", ["inside"]))
    outer.write_bytes(shell_library("libouter.so", needed=["libinner.so.1"]))
    assert look([inner, outer], ("libouter.so", "inside")) == {"libouter.so:inside": 100}
