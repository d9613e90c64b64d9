"""Engines that benchmarks run: of the demo checkpoint, and of a Lite of full width."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.speed import DEMO, WORK, prepare


def build_engine(out: Path, options: list[str]) -> dict[str, Any]:
    """Run `trtcoder build` with ``options``; return what its ``--json`` prints."""
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "build", str(DEMO)]
    command += ["--out", str(out), "--json", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise click.ClickException(f"trtcoder build {' '.join(options)}:\n{result.stderr}")
    built: dict[str, Any] = json.loads(result.stdout)
    return built


def demo_engine(weights: str = "int4") -> Path:
    """Return the demo's engine, built without comparing it, which speed does not need."""
    return prepare(WORK / f"demo-{weights}", DEMO, weights)


def lite_checkpoint(layers: int = 4, dense: int = 1) -> Path:
    """Return a checkpoint of Lite's widths and few layers, of random weights.

    The first ``dense`` layers have no experts.
    """
    from trtcoder.testing.random_checkpoint import LITE_CONFIG, write_random_checkpoint

    folder = WORK / (f"lite-{layers}" if dense == 1 else f"lite-{layers}-dense-{dense}")
    config = {"num_hidden_layers": layers, "first_k_dense_replace": dense}
    if not folder.is_dir():
        click.echo(f"writing a Lite of {layers} layers with random weights", err=True)
        write_random_checkpoint(folder, LITE_CONFIG | config)
    return folder


def lite_engine(layers: int = 4, weights: str = "int4") -> Path:
    """Return an engine of `lite_checkpoint`."""
    return prepare(WORK / f"lite-{layers}-{weights}", lite_checkpoint(layers), weights)
