"""`trtcoder doctor`: what this machine runs engines with."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import click

from trtcoder.commands.terminal import print_json, show
from trtcoder.cores import available_cores
from trtcoder.errors import TrtcoderError
from trtcoder.plugins.library import open_library


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Show what engines run with on this machine: processor, ONNX Runtime, kernels."""
    from trtcoder.tables import render_table

    if as_json:
        print_json(facts(), indent=2)
    else:
        show(render_table(findings(), left=(0, 1)))


def findings() -> list[tuple[str, str]]:
    """Return the table's rows."""
    return [
        ("processor", f"{platform.machine()}, {available_cores()} cores"),
        ("onnxruntime", _onnxruntime()),
        ("kernels", _kernels()),
    ]


def facts() -> dict[str, Any]:
    """Return what programs want to know.

    ``isa`` is the instruction set of the kernels, None where engines run on ONNX Runtime's own
    operators; ``reason`` says why they do.
    """
    found: dict[str, Any] = {"machine": platform.machine(), "cores": available_cores()}
    try:
        library = open_library()
    except TrtcoderError as error:
        return {**found, "isa": None, "isas": [], "library": None, "reason": str(error)}
    return {
        **found, "isa": library.isa, "isas": list(library.isas), "library": str(library.path),
        "reason": None,
    }  # fmt: skip


def _onnxruntime() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{importlib.metadata.version(name)} ({name})"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none; `pip install 'trtcoder[cpu]'`"


def _kernels() -> str:
    try:
        library = open_library()
    except TrtcoderError as error:
        return f"ONNX Runtime's own; {error}"
    return f"{library.isa}; this machine has {', '.join(library.isas)}"
