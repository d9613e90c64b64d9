"""From a checkpoint to the files of an engine folder."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from trtcoder import __version__
from trtcoder.bundle.manifest import (
    FORMAT,
    Manifest,
    ModelInfo,
    SourceInfo,
)
from trtcoder.bundle.onnx import TARGET, GraphInfo, OnnxParts, Requires
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.batch import CACHE_BLOCK
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.deepseek_v2 import DeepseekV2Graph
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.data_file import layout, open_data
from trtcoder.export.weights.journal import Journal
from trtcoder.export.weights.resume import OnItem, OnStep
from trtcoder.export.weights.writer import Stages, Written, write_weights
from trtcoder.prompting.source import Prompting, prompt_files

GRAPH_FILE = "model.onnx"
DATA_FILE = "model.data"
# The release whose kernels the graph was measured with; QMoE's inputs differ before it.
ONNXRUNTIME = "1.31"
# Packages that compute stored values.
_ROUNDING = ("numpy", "numba", "ml_dtypes")
PROVIDER = "CPUExecutionProvider"


def plan_graph(
    checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
) -> DeepseekV2Graph:
    """Return the checkpoint's graph, built; no weight has been read."""
    graph = DeepseekV2Graph(checkpoint, recipe, quantizer)
    graph.build()
    return graph


def write_graph(
    builder: GraphBuilder,
    folder: Path,
    *,
    on_step: OnStep = lambda step: None,
    on_item: OnItem = lambda item: None,
    checkpoint: Checkpoint | None = None,
    journal: Journal | None = None,
    stages: Stages | None = None,
) -> Written:
    """Write the weights of a graph (see `write_weights`), then the graph that points at them."""
    with open_data(builder.plan, folder / DATA_FILE) as sink:
        written = write_weights(
            builder.plan,
            sink,
            on_step=on_step,
            on_item=on_item,
            checkpoint=checkpoint,
            journal=journal,
            stages=stages,
        )
    ir.save(_model(builder, folder), folder / GRAPH_FILE)
    return written


def graph_bytes(builder: GraphBuilder) -> int:
    """Return the size of the graph's file; the builder is used up."""
    return int(ir.to_proto(_model(builder, Path())).ByteSize())


def _model(builder: GraphBuilder, folder: Path) -> ir.Model:
    offsets, _ = layout(builder.plan.weights.values())
    return builder.finish(DATA_FILE, folder, offsets)


def plan(graph: DeepseekV2Graph, **more: object) -> dict[str, object]:
    """Return what the engine's bytes depend on beside the checkpoint's weights, for the journal.

    ``more`` is what a calibrated build adds.
    """
    folder, config = graph.checkpoint.folder, graph.config.raw
    shapes = [[w.name, w.dtype.name, *w.shape] for w in graph.b.plan.weights.values()]
    return {
        "trtcoder": __version__,
        "versions": {name: version(name) for name in _ROUNDING} | {"machine": platform.machine()},
        "config.json": _sha256(json.dumps(config, sort_keys=True).encode()),
        "tensors": graph.checkpoint.layout_digest(),
        **{name: _sha256(data) for name, data in prompt_files(folder).items()},
        "recipe": graph.recipe.to_dict(),
        "layout": _sha256(json.dumps(shapes).encode()),
        **more,
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the files that prompts need."""
    for name, data in prompt_files(checkpoint.folder).items():
        (folder / name).write_bytes(data)


def describe(
    graph: DeepseekV2Graph, prompting: Prompting, digest: str, method: str = "rtn"
) -> Manifest:
    """Return the engine's manifest, without files and certificate.

    ``digest`` is the checkpoint's; ``method`` chose the stored values.
    """
    config = graph.config
    recipe = {**graph.recipe.to_dict(), "method": method}
    return Manifest(
        format=FORMAT,
        trtcoder=__version__,
        target=TARGET,
        model=ModelInfo(
            graph.checkpoint.name,
            dict(config.raw),
            config.vocab_size,
            config.max_position_embeddings,
        ),
        source=SourceInfo(digest, graph.checkpoint.stored_dtype),
        recipe={**recipe, "padded": dict(sorted(graph.b.plan.padded.items()))},
        capabilities=prompting.capabilities,
        chat_format=prompting.chat_format,
        tokens=prompting.tokens,
        files={},
        parity=None,
        onnx=OnnxParts(
            GraphInfo(
                GRAPH_FILE,
                CACHE_BLOCK,
                tuple(info for cache in graph.caches for info in cache.describe()),
            ),
            Requires(ONNXRUNTIME, PROVIDER),
        ),
        chat_template=prompting.chat_template,
        chat_refusal=prompting.chat_refusal,
        sampling=prompting.sampling,
    )
