"""Builds the wheel with the compiler of the package `ziglang`, and runs it where there is none.

    python plugins/wheel.py [FOLDER]

The wheel holds the kernels of every instruction set of this architecture and asks for glibc 2.17.
It is installed into a new environment without pip's cache of ours, in which `trtcoder doctor`
must say that they run. Environments are kept in the user's cache.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GLIBC = "2.17"
ZIG = "ziglang>=0.15,<0.18"


def cache() -> Path:
    """Return the folder that environments are kept in."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trtcoder" / "wheel"


def environment(name: str, *packages: str) -> Path:
    """Return the Python of a new environment with ``packages``."""
    folder = cache() / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if packages:
        _pip(python, "install", *packages)
    return python


def _pip(python: Path, *arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([str(python), "-m", "pip", *quiet, *arguments], check=True)


def build(out: Path) -> Path:
    """Build the wheel into ``out``; return its path."""
    python = environment("build", "setuptools>=77", "wheel", ZIG)
    # No compiler but ziglang's: nothing of this machine's path.
    variables = {
        "PATH": str(python.parent),
        "HOME": str(Path.home()),
        "TRTCODER_TARGET": f"{platform.machine()}-linux-gnu.{GLIBC}",
    }
    subprocess.run(
        [str(python), "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(out), str(ROOT)],
        check=True, env=variables,
    )  # fmt: skip
    return max(out.glob("trtcoder-*.whl"), key=lambda path: path.stat().st_mtime)


def check(wheel: Path) -> dict[str, Any]:
    """Install the wheel into an environment of its own; return what `trtcoder doctor` says."""
    python = environment("clean", f"{wheel}[cpu]")
    _pip(python, "install", "--force-reinstall", "--no-deps", str(wheel))
    result = subprocess.run(
        [str(python.parent / "trtcoder"), "doctor", "--json"], check=True, capture_output=True,
        text=True, env={"PATH": str(python.parent), "HOME": str(Path.home())}, cwd=cache(),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def main() -> int:
    """Build and check."""
    wheel = build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute())
    print(f"{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
    found = check(wheel)
    if not found["isa"]:
        print(f"the kernels in it do not run: {found['reason']}", file=sys.stderr)
        return 1
    print(f"runs on {found['isa']}; this machine has {', '.join(found['isas'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
