"""The serving engine on the graphs that `trtcoder build` writes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.packing import ByHand
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.graph_probe import GraphProbe
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.prompting.source import read_prompting
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.llm import open_engine
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
    plan = OnnxRuntime().plan(source, preset(weights, cache=cache))
    with BundleWriter(folder / "engine") as writer:
        write_engine(plan, writer.folder)
        writer.commit(plan.manifest(read_prompting(source, fim=True), "00" * 32))
    return Bundle.load(folder / "engine")


@pytest.fixture
def runner(bundle: Bundle) -> ModelRunner:
    return ModelRunner(bundle, threads=1, cache_tokens=512)


def run(runner: ModelRunner, sizes: list[int]) -> np.ndarray:
    """Return the last logits of TOKENS, run in pieces of these sizes."""
    sequence = ByHand(runner)
    for size in sizes:
        start = sequence.num_tokens
        logits = sequence.run(TOKENS[start : start + size])
    return logits


@pytest.mark.parametrize("sizes", [[70], [16, 16, 16, 16, 6], [33, 37], [69, 1], [1] * 70])
def test_the_engine_agrees_with_a_plain_run_of_the_graph(
    bundle: Bundle, runner: ModelRunner, sizes: list[int]
) -> None:
    config = Checkpoint.open(bundle.folder.parent / "checkpoint").config
    expected = GraphProbe(bundle.folder, bundle.manifest, config).run(TOKENS).logits[-1]
    tolerance = TOLERANCE[str(bundle.manifest.recipe["weights"])]
    np.testing.assert_allclose(run(runner, sizes), expected, atol=tolerance)


def test_sequences_packed_together_get_the_logits_they_get_alone(
    bundle: Bundle, runner: ModelRunner
) -> None:
    parts = [part.tolist() for part in np.split(np.array(TOKENS), [40, 57, 62])[:3]]
    alone = [ByHand(runner).run(part) for part in parts]
    # The first in the last blocks, so that no sequence stands where it stood alone.
    sequences = [ByHand(runner, first) for first in (8, 3, 0)]
    spans = [sequence.span(part) for sequence, part in zip(sequences, parts, strict=True)]
    logits = runner.forward(PackedBatch.pack(spans, runner.block_size))
    tolerance = TOLERANCE[str(bundle.manifest.recipe["weights"])]
    np.testing.assert_allclose(logits, alone, atol=tolerance)


def test_same_seed_same_text(bundle: Bundle) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, seed=5, max_tokens=40)
    with open_engine(bundle.folder, threads=1, context=256) as llm:
        first = llm.stream("def quick_sort(arr):", params).text()
        llm.stream_fill("def f(", "):", params).text()
        assert llm.stream("def quick_sort(arr):", params).text() == first
