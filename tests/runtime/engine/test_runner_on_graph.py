"""The model runner on the graphs that `trtcoder build` writes.

A plain session of ONNX Runtime on the same batches is what it is held against: nothing is bound in
place there, and the caches go in and out as values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engines import build_engine, plain_session, write_checkpoint
from tests.runtime.packing import ByHand
from trtcoder.bundle.folder import Bundle
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.session import INDEX_INPUTS
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

Logits = NDArray[np.float32]
TOKENS: list[int] = np.random.default_rng(0).integers(0, 256, 70).tolist()
CACHE_TOKENS = 512
# Name -> weights, cache, and whether experts come in groups.
RECIPES = {
    "fp32": ("fp32", "fp32", False),
    "grouped": ("fp32", "fp32", True),
    "int4-int8": ("int4", "int8", False),
    "int8": ("int8", "fp32", True),
    "fp8-fp8": ("fp8", "fp8", False),
}
# Sums of float32 in another order: 1.6e-6 of the largest logit at most, measured.
SAME = 1e-5


def build(name: str, folder: Path) -> Bundle:
    weights, cache, grouped = RECIPES[name]
    config = tiny_grouped_config() if grouped else tiny_config()
    source = write_checkpoint(folder / "checkpoint", config)
    return build_engine(source, folder / "engine", weights, cache=cache)


@pytest.fixture(scope="module", params=RECIPES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(request.param, tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module", params=["fp32", "grouped"])
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(request.param, tmp_path_factory.mktemp("graph"))


def open_runner(bundle: Bundle) -> ModelRunner:
    return ModelRunner(bundle, threads=1, cache_tokens=CACHE_TOKENS)


def pieces(runner: ModelRunner, sizes: Sequence[int]) -> Iterator[PackedBatch]:
    """Yield TOKENS in pieces of these sizes, with the logits of each piece's last token."""
    sequence = ByHand(runner)
    for size in sizes:
        start = sequence.num_tokens
        span = sequence.span(TOKENS[start : start + size])
        yield PackedBatch.pack([span], runner.block_size)
    assert sequence.num_tokens == len(TOKENS)


class PlainSession:
    """Runs batches one after another, and carries the caches from one to the next."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = plain_session(bundle)
        self._caches: dict[str, NDArray[Any]] = {
            cache.name: np.zeros((CACHE_TOKENS, cache.width), cache.dtype)
            for cache in bundle.manifest.graph.caches
        }

    def forward(self, batch: PackedBatch) -> Logits:
        inputs = {name: getattr(batch, name) for name in INDEX_INPUTS}
        names = ["logits", *(f"{name}.out" for name in self._caches)]
        logits, *written = self._session.run(names, inputs | self._caches)
        self._caches = dict(zip(self._caches, written, strict=True))
        return np.asarray(logits)


def assert_same(found: Logits, wanted: Logits) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=SAME * np.abs(wanted).max())


@pytest.mark.parametrize("sizes", [[70], [16, 16, 16, 16, 6], [33, 37], [69, 1], [1] * 70], ids=str)
def test_the_runner_agrees_with_a_plain_session_on_the_same_chunks(
    bundle: Bundle, sizes: list[int]
) -> None:
    runner, plain = open_runner(bundle), PlainSession(bundle)
    for batch in pieces(runner, sizes):
        assert_same(runner.forward(batch), plain.forward(batch))


def test_the_runner_agrees_with_a_plain_session_on_packed_sequences(bundle: Bundle) -> None:
    runner, plain = open_runner(bundle), PlainSession(bundle)
    sequences = [ByHand(runner, first) for first in (8, 3, 0)]
    # Two prompts; one of them decodes while the third's prompt arrives; all decode.
    for parts in (
        (TOKENS[:40], TOKENS[40:57]),
        (TOKENS[3:4], TOKENS[5:6], TOKENS[57:62]),
        (TOKENS[7:8], TOKENS[9:10], TOKENS[11:12]),
    ):
        spans = [sequence.span(part) for sequence, part in zip(sequences, parts, strict=False)]
        batch = PackedBatch.pack(spans, runner.block_size)
        assert_same(runner.forward(batch), plain.forward(batch))


@pytest.mark.parametrize("sizes", [[16, 16, 16, 16, 6], [69, 1], [1] * 70], ids=str)
def test_logits_do_not_depend_on_how_the_prompt_is_cut(exact: Bundle, sizes: list[int]) -> None:
    runner = open_runner(exact)
    (whole,) = [runner.forward(batch).copy() for batch in pieces(runner, [70])]
    *_, last = [runner.forward(batch).copy() for batch in pieces(runner, sizes)]
    assert_same(last, whole)


def test_sequences_packed_together_get_the_logits_they_get_alone(exact: Bundle) -> None:
    runner = open_runner(exact)
    parts = [TOKENS[:40], TOKENS[40:57], TOKENS[57:62]]
    alone = [ByHand(runner).run(part) for part in parts]
    # The first in the last blocks, so that no sequence stands where it stood alone.
    sequences = [ByHand(runner, first) for first in (8, 3, 0)]
    spans = [sequence.span(part) for sequence, part in zip(sequences, parts, strict=True)]
    assert_same(runner.forward(PackedBatch.pack(spans, runner.block_size)), np.array(alone))


def test_same_seed_same_text(bundle: Bundle) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, seed=5, max_tokens=40)
    # Without `deterministic` the second prompt reuses the first one's cache rows, so that its last
    # token runs alone: activations of 8 bits are rounded otherwise then.
    settings = EngineSettings(threads=1, context=256, deterministic=True)
    with LLM(bundle.folder, settings=settings) as llm:
        first = llm.stream("def quick_sort(arr):", params).text()
        llm.stream_fill("def f(", "):", params).text()
        assert llm.stream("def quick_sort(arr):", params).text() == first
