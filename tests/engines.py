"""Builds small engines for tests, without the comparison that `trtcoder build` adds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.graph_probe import GraphProbe, add_probabilities
from trtcoder.export.recipe import Recipe, preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.plugins.choice import choose
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import write_random_checkpoint

if TYPE_CHECKING:
    import onnxruntime


def write_checkpoint(folder: Path, config: dict[str, Any], **options: Any) -> Checkpoint:
    """Return a random checkpoint of ``config``'s shape."""
    return Checkpoint.open(write_random_checkpoint(folder, config, **options))


def build_engine(
    source: Checkpoint, folder: Path, weights: str = "fp32", fim: bool | None = True, **recipe: Any
) -> Bundle:
    """Return an engine of ``source``."""
    return build_by(source, folder, preset(weights, **recipe), fim)


def build_by(source: Checkpoint, folder: Path, recipe: Recipe, fim: bool | None = True) -> Bundle:
    """Return an engine of ``source``, stored by a recipe."""
    plan = OnnxRuntime().plan(source, recipe)
    with BundleWriter(folder) as writer:
        write_engine(plan, writer.folder)
        writer.commit(plan.manifest(read_prompting(source, fim), source.digest()))
    return Bundle.load(folder)


def probe(bundle: Bundle, source: Checkpoint, **options: Any) -> GraphProbe:
    """Return a probe of an engine."""
    return GraphProbe(bundle.folder, bundle.manifest, source.config, **options)


def plain_session(bundle: Bundle, *outputs: str, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return a session over the graph that runs here, as the runtime opens it.

    ``outputs`` are inner values that become outputs, behind the graph's own.
    """
    import onnx
    import onnxruntime

    choice = choose(bundle.manifest.onnx_parts)
    model = onnx.load(str(bundle.path(choice.file)), load_external_data=False)
    add_probabilities(model, outputs)
    for name in outputs:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    choice.configure(options, threads)
    # As the runtime does: float8 weights become float32 once, and nothing else is fused.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(bundle.folder)
    )
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def inner_values(bundle: Bundle, ids: list[int], *names: str) -> list[NDArray[Any]]:
    """Return values of the graph by name, from a run of one sequence with an empty cache."""
    import onnx
    import onnxruntime

    graph = bundle.manifest.graph
    model = onnx.load(str(bundle.graph_path), load_external_data=False)
    known = {output.name for output in model.graph.output}
    for name in set(names) - known:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(bundle.folder)
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    tokens = np.arange(len(ids))
    blocks = -(-len(ids) // graph.cache_block)
    feeds = {
        "input_ids": np.array(ids, np.int64),
        "positions": tokens,
        "slots": tokens,
        "sequences": np.zeros_like(tokens),
        "block_table": np.arange(blocks)[None],
        "sample_rows": tokens,
    }
    for cache in graph.caches:
        shape = (blocks * graph.cache_block, cache.width)
        feeds[cache.name] = np.zeros(shape, cache.dtype)
    found: list[NDArray[Any]] = session.run(list(names), feeds)
    return found
