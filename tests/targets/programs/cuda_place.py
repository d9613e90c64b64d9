"""Opens an engine for CUDA as the runtime does, and runs a step of prompts and one of tokens.

It is run above a stand-in for CUDA's libraries: that it runs counts, what comes out is worthless.
Prints the operators by where they run, the steps' shapes, and whether cache rows go round, as JSON.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from trtcoder.bundle.folder import Bundle
from trtcoder.runtime.engine import cuda_device
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.runner import ModelRunner


def placement(graph: Path) -> dict[str, dict[str, int]]:
    """Return the operators of a graph by provider, counted."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = cuda_device.configure(onnxruntime, options)
    session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(n.op_type for n in part.get_nodes())
    return {provider: dict(counts) for provider, counts in found.items()}


def steps(runner: ModelRunner) -> list[list[int]]:
    """Run three prompts of one length and another, then one token of each; return the shapes."""
    blocks = [np.array([4, 1]), np.array([2]), np.array([0, 3])]
    prompts = [list(range(1, 20)), [5], list(range(3, 20))]
    spans = [Span(ids, 0, own, 1) for ids, own in zip(prompts, blocks, strict=True)]
    more = [Span([7], len(ids), own, 1) for ids, own in zip(prompts, blocks, strict=True)]
    batches = (PackedBatch.pack(given, runner.block_size) for given in (spans, more))
    return [list(runner.forward(batch).shape) for batch in batches]


def keeps_rows(runner: ModelRunner) -> bool:
    """Return whether blocks are written, copied, read and cleared."""
    size = len(runner.read_block(0))
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    written = runner.write_block(5, data) and runner.read_block(5) == data
    runner.copy_rows(5, 6, runner.block_size)
    copied = runner.read_block(6) == data
    runner.clear_rows(np.arange(6 * runner.block_size, 7 * runner.block_size))
    return written and copied and not any(runner.read_block(6))


def main() -> None:
    """Run."""
    bundle = Bundle.load(Path(sys.argv[1]))
    nodes = placement(bundle.graph_path)
    runner = ModelRunner(bundle, cache_tokens=8 * bundle.manifest.graph.cache_block)
    found: dict[str, Any] = {
        "nodes": nodes,
        "steps": steps(runner),
        "rows": keeps_rows(runner),
    }
    print(json.dumps(found), flush=True)
    # Ending the provider is not what is looked at.
    os._exit(0)


if __name__ == "__main__":
    main()
