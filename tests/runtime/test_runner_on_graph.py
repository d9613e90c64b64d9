"""The serving engine on the graphs that `trtcoder build` writes."""

from __future__ import annotations

import numpy as np
import pytest

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.probe import Probe
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import copy_tokenizer, describe, plan_graph, write_graph
from trtcoder.prompting.source import read_prompting
from trtcoder.runtime.cache.blocks import BlockTable
from trtcoder.runtime.coder import open_coder
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import Engine
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.testing.random_checkpoint import (
    tiny_config,
    tiny_grouped_config,
    write_random_checkpoint,
)

TOKENS = np.random.default_rng(0).integers(0, 256, 70).tolist()
# Rounding activations to 8 bits differs between one token and many, by about 1 % of the logits.
TOLERANCE = {"fp32": 1e-5, "fp8": 0.1, "int8": 0.1, "int4": 0.1}


@pytest.fixture(scope="module", params=["fp32-fp32", "int4-int8", "fp8-fp8", "grouped"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("graph")
    grouped = request.param == "grouped"
    config = tiny_grouped_config() if grouped else tiny_config()
    source = Checkpoint.open(write_random_checkpoint(folder / "checkpoint", config))
    weights, cache = ("fp32", "fp32") if grouped else request.param.split("-")
    graph = plan_graph(source, preset(weights, cache=cache))
    with BundleWriter(folder / "engine") as writer:
        write_graph(graph.b, writer.folder)
        copy_tokenizer(source, writer.folder)
        writer.commit(describe(graph, read_prompting(source, fim=True), "00" * 32))
    return Bundle.load(folder / "engine")


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, threads=1, cache_tokens=512)


def run(engine: Engine, sizes: list[int]) -> np.ndarray:
    """Return the last logits of TOKENS, run in pieces of these sizes."""
    table = BlockTable(engine.cache)
    for size in sizes:
        start = table.num_tokens
        table.append(size)
        last = table.num_tokens == len(TOKENS)
        batch = PackedBatch.of_sequence(TOKENS[start : start + size], table, sample=last)
        logits = engine.forward(batch)
    table.free()
    return np.array(logits[0])


@pytest.mark.parametrize("sizes", [[70], [16, 16, 16, 16, 6], [33, 37], [69, 1], [1] * 70])
def test_the_engine_agrees_with_a_plain_run_of_the_graph(
    bundle: Bundle, engine: Engine, sizes: list[int]
) -> None:
    config = Checkpoint.open(bundle.folder.parent / "checkpoint").config
    expected = Probe(bundle.folder, bundle.manifest, config).run(TOKENS).logits[-1]
    tolerance = TOLERANCE[str(bundle.manifest.recipe["weights"])]
    np.testing.assert_allclose(run(engine, sizes), expected, atol=tolerance)


def test_sequences_packed_together_get_the_logits_they_get_alone(
    bundle: Bundle, engine: Engine
) -> None:
    alone, tables = [], [BlockTable(engine.cache) for _ in range(3)]
    lengths = [40, 17, 5]
    parts = np.split(np.array(TOKENS), np.cumsum(lengths))[:3]
    for table, part in zip(tables, parts, strict=True):
        table.append(len(part))
        alone.append(engine.forward(PackedBatch.of_sequence(part.tolist(), table))[0].copy())
        table.free()
    for table, part in zip(tables, parts, strict=True):
        table.append(len(part))
    width = max(len(table.blocks) for table in tables)
    logits = engine.forward(
        PackedBatch(
            input_ids=np.concatenate(parts),
            positions=np.concatenate([np.arange(length) for length in lengths]),
            slots=np.concatenate([table.rows(0, table.num_tokens) for table in tables]),
            sequences=np.repeat(np.arange(3), lengths),
            block_table=np.array([t.blocks + [-1] * (width - len(t.blocks)) for t in tables]),
            sample_rows=np.cumsum(lengths) - 1,
        )
    )
    tolerance = TOLERANCE[str(bundle.manifest.recipe["weights"])]
    np.testing.assert_allclose(logits, alone, atol=tolerance)


def test_same_seed_same_text(bundle: Bundle) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, seed=5)
    with open_coder(bundle.folder, threads=1, cache_tokens=256) as coder:
        first = coder.complete("def quick_sort(arr):", params, max_tokens=40).text()
        coder.fill("def f(", "):", params, max_tokens=8).text()
        assert coder.complete("def quick_sort(arr):", params, max_tokens=40).text() == first
