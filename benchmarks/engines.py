"""Engines of the demo checkpoint, built as a user builds them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.speed import DEMO


def build_engine(out: Path, options: list[str]) -> dict[str, Any]:
    """Run `trtcoder build` with ``options``; return what its ``--json`` prints."""
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "build", str(DEMO)]
    command += ["--out", str(out), "--json", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise click.ClickException(f"trtcoder build {' '.join(options)}:\n{result.stderr}")
    built: dict[str, Any] = json.loads(result.stdout)
    return built
