"""From a checkpoint to an engine folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtcoder import __version__
from trtcoder.bundle import BundleWriter
from trtcoder.checkpoint import Checkpoint
from trtcoder.errors import BuildError, DependencyError
from trtcoder.export.batch import CACHE_BLOCK
from trtcoder.export.builder import GraphBuilder, Step
from trtcoder.export.deepseek_v2 import DeepseekV2Graph
from trtcoder.export.recipe import Recipe
from trtcoder.export.tokens import read_prompting
from trtcoder.export.weights import external_tensors, write_data
from trtcoder.manifest import (
    FORMAT,
    CacheInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    Requires,
    SourceInfo,
)

GRAPH_FILE = "model.onnx"
DATA_FILE = "model.data"
COPIED_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_engine(
    checkpoint: Checkpoint,
    recipe: Recipe,
    writer: BundleWriter,
    *,
    fim: bool | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Manifest:
    """Write graph, weights and tokenizer into ``writer.folder``; return the manifest to commit.

    ``fim`` overrides whether the model is taken to be trained for filling in the middle.
    """
    prompting = read_prompting(checkpoint, fim)
    architecture = DeepseekV2Graph(checkpoint, recipe)
    builder = architecture.build()
    write_graph(builder, writer.folder, on_step)
    for name in COPIED_FILES:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, writer.folder / name)
    config = checkpoint.config
    return Manifest(
        format=FORMAT,
        trtcoder=__version__,
        target="onnx",
        model=ModelInfo(config.published_name or checkpoint.folder.name, dict(config.raw)),
        source=SourceInfo(checkpoint.digest(), config.torch_dtype),
        recipe=recipe.to_dict(),
        capabilities=prompting.capabilities,
        chat_format=prompting.chat_format,
        tokens=prompting.tokens,
        graph=GraphInfo(
            GRAPH_FILE,
            CACHE_BLOCK,
            config.max_position_embeddings,
            config.vocab_size,
            tuple(
                CacheInfo(**spec) for cache in architecture.caches for spec in cache.specs()
            ),
        ),
        requires=Requires(RUNTIME, "CPUExecutionProvider"),
        files={},
        parity=None,
    )
