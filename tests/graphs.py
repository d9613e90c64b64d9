"""Runs graphs that are no whole engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.weights.data_file import layout, open_data
from trtcoder.export.weights.writer import write_weights


def run_graph(b: GraphBuilder, folder: Path, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Write a graph with its weights and return its outputs."""
    import onnxruntime

    with open_data(b.plan, folder / "weights.data") as sink:
        write_weights(b.plan, sink)
    offsets, _ = layout(b.plan.declared.values())
    ir.save(b.model("weights.data", offsets), folder / "graph.onnx")
    session = onnxruntime.InferenceSession(str(folder / "graph.onnx"))
    return [np.asarray(found) for found in session.run(None, feeds)]
