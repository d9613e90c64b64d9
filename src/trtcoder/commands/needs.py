"""The packages that commands need, checked before any work; nothing is imported."""

from __future__ import annotations

from trtcoder.refusals import require

BUILD = ("blake3", "ml_dtypes", "numba", "onnx", "onnx_ir", "threadpoolctl")


def require_build() -> None:
    """Raise DependencyError unless engines can be planned and written."""
    require(*BUILD, extra="build")


def require_verify() -> None:
    """Raise DependencyError unless engines can be compared with the reference."""
    require("torch", "transformers", extra="verify")
    require_run()


def require_run() -> None:
    """Raise DependencyError unless engines can be run."""
    require("onnxruntime", extra="cpu")


def require_report(*, drawings: bool = True) -> None:
    """Raise DependencyError unless certificates can be written as pages, and drawn."""
    require("jinja2", *(["matplotlib"] if drawings else []), extra="report")
