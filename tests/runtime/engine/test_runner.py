from __future__ import annotations

import builtins
import dataclasses
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.packing import ByHand, on_host
from tests.toy_engine import (
    BLOCK,
    BOS,
    EMBEDDING,
    POSITIONS,
    VOCAB,
    WIDTH,
    expected_logits,
    toy_graph,
    toy_manifest,
    write_toy_engine,
)
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.onnx import CacheInfo, OnnxParts, Requires
from trtcoder.bundle.quantized import QuantizedParts
from trtcoder.bundle.writer import BundleWriter
from trtcoder.errors import DependencyError, EngineError
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.runner import SCORE_BYTES, ModelRunner


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(write_toy_engine(tmp_path_factory.mktemp("toy") / "engine"))


@pytest.fixture
def runner(bundle: Bundle) -> ModelRunner:
    return ModelRunner(bundle, threads=1)


@pytest.mark.parametrize("chunks", [(11,), (1,) * 11, (4, 4, 3), (5, 1, 5)])
def test_logits_do_not_depend_on_how_the_prompt_is_cut(
    runner: ModelRunner, chunks: tuple[int, ...]
) -> None:
    tokens = [BOS, 7, 99, 100, 3, 3, 201, 12, 13, 14, 15]
    sequence = ByHand(runner)
    done = 0
    for size in chunks:
        logits = sequence.run(tokens[done : done + size])
        done += size
        np.testing.assert_array_equal(logits, expected_logits(tokens[:done]))


def test_sequences_of_one_batch_do_not_see_each_other(runner: ModelRunner) -> None:
    a, b = ByHand(runner, 4), ByHand(runner)
    a.run([1, 2, 3, 4, 5])
    b.run([9])
    # One token of a, three of b, whose last two logits are wanted.
    batch = PackedBatch.pack([a.span([6]), b.span([10, 11, 12], 2)], runner.block_size)
    assert batch.block_table.tolist() == [[4, 5], [0, -1]]
    logits = runner.forward(batch)
    np.testing.assert_array_equal(logits[0], expected_logits([1, 2, 3, 4, 5, 6]))
    np.testing.assert_array_equal(logits[1], expected_logits([9, 10, 11]))
    np.testing.assert_array_equal(logits[2], expected_logits([9, 10, 11, 12]))


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 30), st.booleans()), min_size=1, max_size=6
    )
)
def test_packing_places_every_token(spans: list[tuple[int, int, bool]]) -> None:
    given_spans = []
    first = 0
    for count, start, sampled in spans:
        size = -(-(start + count) // BLOCK)
        blocks = np.arange(first + size, first, -1, dtype=np.int64)
        given_spans.append(Span(list(range(count)), start, blocks, int(sampled)))
        first += size
    batch = PackedBatch.pack(given_spans, BLOCK)
    place = 0
    samples = []
    for row, span in enumerate(given_spans):
        for offset, token in enumerate(span.tokens):
            position = span.start + offset
            assert batch.input_ids[place] == token
            assert batch.positions[place] == position
            assert batch.sequences[place] == row
            slot = span.blocks[position // BLOCK] * BLOCK + position % BLOCK
            assert batch.slots[place] == slot
            place += 1
        samples += [place - 1] * span.samples
    assert place == len(batch.input_ids)
    assert batch.sample_rows.tolist() == samples


def test_rows_are_copied_and_cleared_in_every_cache(runner: ModelRunner) -> None:
    ByHand(runner, 1).run([7, 8, 9])
    runner.copy_rows(1, 5, 2)
    for arena in on_host(runner).arenas:
        np.testing.assert_array_equal(arena.array[20:22], arena.array[4:6])
        assert arena.array[4:7].any(axis=1).all()
        assert not arena.array[22:].any()
    runner.clear_rows(np.array([4, 6]))
    for arena in on_host(runner).arenas:
        assert np.flatnonzero(arena.array.any(axis=1)).tolist() == [5, 20, 21]


def test_caches_are_aligned_to_cache_lines(runner: ModelRunner) -> None:
    assert all(arena.pointer % 64 == 0 for arena in on_host(runner).arenas)


def test_a_forward_writes_its_own_rows_in_place_and_no_others(runner: ModelRunner) -> None:
    sequence = ByHand(runner)
    sequence.run([1, 2, 3, 4, 5])
    arena = on_host(runner).arenas[0]
    assert arena.array.ctypes.data == arena.pointer
    np.testing.assert_array_equal(arena.array[:5], EMBEDDING[[1, 2, 3, 4, 5]])
    arena.array[2] = 77
    sequence.run([6])
    np.testing.assert_array_equal(arena.array[5], EMBEDDING[6])
    np.testing.assert_array_equal(arena.array[2], np.full(WIDTH, 77))
    assert not arena.array[6:].any()


def test_a_decode_step_copies_no_cache(tmp_path: Path) -> None:
    """A copy of the 256 MiB below takes over 20 ms; the step itself well under one."""
    rows = 1 << 23
    model = dataclasses.replace(toy_manifest().model, max_positions=rows)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    runner = ModelRunner(Bundle.load(write_toy_engine(tmp_path / "engine", manifest)), threads=1)
    last = rows // BLOCK - 1
    batch = PackedBatch(
        input_ids=np.array([5]),
        positions=np.array([0]),
        slots=np.array([last * BLOCK]),
        sequences=np.array([0]),
        block_table=np.array([[last]]),
        sample_rows=np.array([0]),
    )
    runner.forward(batch)
    assert on_host(runner).bound_rows * WIDTH * 4 == 256 << 20
    seconds = []
    for _ in range(20):
        start = time.process_time()
        runner.forward(batch)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.005


def test_buffers_are_bound_again_only_when_a_block_is_added(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Recorder:
        def __init__(self, binding: object) -> None:
            self.binding = binding

        def __getattr__(self, name: str) -> object:
            if name.startswith("bind"):
                calls.append(name)
            return getattr(self.binding, name)

    sequence = ByHand(runner)
    sequence.run([1] * BLOCK)
    sequence.run([1])
    monkeypatch.setattr(on_host(runner), "io", Recorder(on_host(runner).io))
    for _ in range(BLOCK - 1):
        sequence.run([2])
    assert calls == []
    sequence.run([2])
    assert sorted(calls) == ["bind_input"] * 3 + ["bind_output"] * 2


def test_only_the_rows_in_use_are_bound(runner: ModelRunner) -> None:
    sequence = ByHand(runner)
    for length in range(1, 2 * BLOCK + 2):
        sequence.run([1])
        assert on_host(runner).bound_rows == -(-length // BLOCK) * BLOCK


def test_a_chunk_may_ask_for_no_logits(runner: ModelRunner) -> None:
    sequence = ByHand(runner)
    batch = PackedBatch.pack([sequence.span([1, 2, 3], 0)], runner.block_size)
    assert runner.forward(batch).shape == (0, VOCAB)
    np.testing.assert_array_equal(sequence.run([4]), expected_logits([1, 2, 3, 4]))


def test_the_cache_may_be_smaller_than_the_context(bundle: Bundle) -> None:
    assert ModelRunner(bundle).num_blocks * BLOCK == POSITIONS
    assert ModelRunner(bundle, cache_tokens=9).num_blocks == 3


def test_a_cache_beyond_the_address_space_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"cache\.0: cannot reserve .* MiB .*shorter context"):
        ModelRunner(bundle, cache_tokens=1 << 50)


def test_more_heads_leave_fewer_cells_for_the_scores(tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, config={"num_attention_heads": 16})
    manifest = dataclasses.replace(toy_manifest(), model=model)
    runner = ModelRunner(Bundle.load(write_toy_engine(tmp_path / "engine", manifest)))
    assert runner.score_cells * 16 * 4 == SCORE_BYTES


def test_a_failure_inside_onnxruntime_is_an_engine_error(runner: ModelRunner) -> None:
    with pytest.raises(EngineError, match="ONNX Runtime failed on 1 tokens"):
        ByHand(runner).run([VOCAB + 5])
    np.testing.assert_array_equal(ByHand(runner).run([3]), expected_logits([3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx": OnnxParts(toy_manifest().graph, Requires("1.12", "CPUExecutionProvider"))},
         r"built for onnxruntime 1\.12, found .*; `pip install 'onnxruntime==1\.12\.\*'`"),
        ({"onnx": OnnxParts(toy_manifest().graph, Requires("1.31", "RocmExecutionProvider"))},
         "built for RocmExecutionProvider"),
        ({"onnx": OnnxParts(toy_manifest().graph, Requires("1.31", "CUDAExecutionProvider"),
                            twin="model.onnx")},
         r"needs CUDAExecutionProvider, and this onnxruntime has .*`pip uninstall onnxruntime`"),
        ({"target": "tensorrt-llm", "onnx": None,
          "quantized": QuantizedParts("fp8-block", ("vllm",), {})},
         "an engine for tensorrt-llm.*vllm serve it.*--target onnx"),
    ],
)  # fmt: skip
def test_an_engine_for_another_runtime_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    manifest = dataclasses.replace(toy_manifest(), **changes)
    with pytest.raises(EngineError, match=message):
        ModelRunner(Bundle.load(write_toy_engine(tmp_path / "engine", manifest)))


def test_a_graph_that_breaks_the_contract_is_refused(tmp_path: Path) -> None:
    graph = toy_graph({})
    graph.graph.input[0].name = graph.graph.node[0].input[1] = "tokens"
    graph.graph.node[1].input[0] = "tokens"
    info = dataclasses.replace(
        toy_manifest().graph,
        caches=(CacheInfo("cache.0", "float32", WIDTH), CacheInfo("cache.1", "int8", 3)),
    )
    with BundleWriter(tmp_path / "engine") as writer:
        onnx.save(graph, str(writer.folder / "model.onnx"))
        parts = OnnxParts(info, toy_manifest().requires)
        writer.commit(dataclasses.replace(toy_manifest(), onnx=parts))
    with pytest.raises(EngineError, match=r"inputs differ in input_ids, tokens; cache\.1 is"):
        ModelRunner(Bundle.load(tmp_path / "engine"))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "engine") as writer:
        (writer.folder / "model.onnx").write_bytes(b"no graph")
        writer.commit(toy_manifest())
    with pytest.raises(EngineError, match="ONNX Runtime cannot load the graph"):
        ModelRunner(Bundle.load(tmp_path / "engine"))


def hide_onnxruntime(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    real_import = builtins.__import__

    def missing(name: str, *args: object, **kwargs: object) -> object:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    def version(name: str) -> str:
        if name in installed:
            return "1.31.1"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(importlib.metadata, "version", version)


def test_without_onnxruntime_the_extras_are_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_onnxruntime(monkeypatch, set())
    with pytest.raises(DependencyError, match=r"trtcoder\[cpu\].*trtcoder\[cuda\].*exclude"):
        ModelRunner(bundle)


def test_two_onnxruntime_packages_are_told_apart(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_onnxruntime(monkeypatch, {"onnxruntime", "onnxruntime-gpu"})
    with pytest.raises(DependencyError, match="both installed and overwrite each other"):
        ModelRunner(bundle)


def test_the_runtime_imports_nothing_that_only_builds_need(bundle: Bundle) -> None:
    import subprocess

    code = (
        "import sys, json\n"
        "from trtcoder import open_engine\n"
        f"open_engine({str(bundle.folder)!r}).stream('a', max_tokens=2).text()\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"torch", "transformers", "onnx", "onnx_ir", "jinja2", "ml_dtypes"} & set(loaded)
