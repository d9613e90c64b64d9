"""Builds small engines for tests, without the comparison that `trtcoder build` adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtcoder.bundle import Bundle, BundleWriter
from trtcoder.checkpoint import Checkpoint
from trtcoder.export.build import copy_tokenizer, describe, plan_graph, write_graph
from trtcoder.export.probe import Probe
from trtcoder.export.recipe import preset
from trtcoder.export.tokens import read_prompting
from trtcoder.random_checkpoint import write_random_checkpoint


def write_checkpoint(folder: Path, config: dict[str, Any], **options: Any) -> Checkpoint:
    """Return a random checkpoint of ``config``'s shape."""
    return Checkpoint.open(write_random_checkpoint(folder, config, **options))


def build_engine(
    source: Checkpoint, folder: Path, weights: str = "fp32", fim: bool | None = True, **recipe: Any
) -> Bundle:
    """Return an engine of ``source``."""
    graph = plan_graph(source, preset(weights, **recipe))
    with BundleWriter(folder) as writer:
        write_graph(graph.b, writer.folder)
        copy_tokenizer(source, writer.folder)
        writer.commit(describe(graph, read_prompting(source, fim), source.digest()))
    return Bundle.load(folder)


def probe(bundle: Bundle, source: Checkpoint, **options: Any) -> Probe:
    """Return a probe of an engine."""
    return Probe(bundle.folder, bundle.manifest, source.config, **options)
