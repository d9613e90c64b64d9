"""`trtcoder doctor`: what this machine runs engines with."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from trtcoder.commands.terminal import show
from trtcoder.cores import available_cores
from trtcoder.errors import TrtcoderError
from trtcoder.plugins.library import open_library


@click.command()
def doctor() -> None:
    """Show what engines run with on this machine: processor, ONNX Runtime, kernels."""
    from trtcoder.tables import render_table

    show(render_table(findings(), left=(0, 1)))


def findings() -> list[tuple[str, str]]:
    """Return the table's rows."""
    return [
        ("processor", f"{platform.machine()}, {available_cores()} cores"),
        ("onnxruntime", _onnxruntime()),
        ("kernels", _kernels()),
    ]


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
