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
from trtcoder.bundle.writer import BundleWriter
from trtcoder.errors import DependencyError, EngineError
from trtcoder.runtime.cache.blocks import BlockTable
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import PREFILL_CHUNK, Engine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(write_toy_engine(tmp_path_factory.mktemp("toy") / "engine"))


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, threads=1)


def append(engine: Engine, table: BlockTable, tokens: list[int]) -> np.ndarray:
    assert table.append(len(tokens))
    return np.array(engine.forward(PackedBatch.of_sequence(tokens, table))[0])


@pytest.mark.parametrize("chunks", [(11,), (1,) * 11, (4, 4, 3), (5, 1, 5)])
def test_logits_do_not_depend_on_how_the_prompt_is_cut(
    engine: Engine, chunks: tuple[int, ...]
) -> None:
    tokens = [BOS, 7, 99, 100, 3, 3, 201, 12, 13, 14, 15]
    table = BlockTable(engine.cache)
    done = 0
    for size in chunks:
        logits = append(engine, table, tokens[done : done + size])
        done += size
        np.testing.assert_array_equal(logits, expected_logits(tokens[:done]))


def test_sequences_of_one_batch_do_not_see_each_other(engine: Engine) -> None:
    a, b = BlockTable(engine.cache), BlockTable(engine.cache)
    append(engine, a, [1, 2, 3, 4, 5])
    append(engine, b, [9])
    # One token of a, three of b; logits for the last of each, b's first.
    a.append(1)
    b.append(3)
    logits = engine.forward(
        PackedBatch(
            input_ids=np.array([6, 10, 11, 12]),
            positions=np.array([5, 1, 2, 3]),
            slots=np.concatenate([a.rows(5, 6), b.rows(1, 4)]),
            sequences=np.array([0, 1, 1, 1]),
            block_table=np.array([a.blocks, [*b.blocks, -1]]),
            sample_rows=np.array([3, 0]),
        )
    )
    np.testing.assert_array_equal(logits[0], expected_logits([9, 10, 11, 12]))
    np.testing.assert_array_equal(logits[1], expected_logits([1, 2, 3, 4, 5, 6]))


def test_caches_are_aligned_to_cache_lines(engine: Engine) -> None:
    assert all(arena.pointer % 64 == 0 for arena in engine._arenas)


def test_a_forward_writes_its_own_rows_in_place_and_no_others(engine: Engine) -> None:
    table = BlockTable(engine.cache)
    append(engine, table, [1, 2, 3, 4, 5])
    arena = engine._arenas[0]
    assert arena.array.ctypes.data == arena.pointer
    np.testing.assert_array_equal(arena.array[:5], EMBEDDING[[1, 2, 3, 4, 5]])
    arena.array[2] = 77
    append(engine, table, [6])
    np.testing.assert_array_equal(arena.array[5], EMBEDDING[6])
    np.testing.assert_array_equal(arena.array[2], np.full(WIDTH, 77))
    assert not arena.array[6:].any()


def test_a_decode_step_copies_no_cache(tmp_path: Path) -> None:
    """A copy of the 256 MiB below takes over 20 ms; the step itself well under one."""
    rows = 1 << 23
    model = dataclasses.replace(toy_manifest().model, max_positions=rows)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    engine = Engine(Bundle.load(write_toy_engine(tmp_path / "engine", manifest)), threads=1)
    last = rows // BLOCK - 1
    batch = PackedBatch(
        input_ids=np.array([5]),
        positions=np.array([0]),
        slots=np.array([last * BLOCK]),
        sequences=np.array([0]),
        block_table=np.array([[last]]),
        sample_rows=np.array([0]),
    )
    engine.forward(batch)
    assert engine._bound_rows * WIDTH * 4 == 256 << 20
    seconds = []
    for _ in range(20):
        start = time.process_time()
        engine.forward(batch)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.005


def test_buffers_are_bound_again_only_when_a_block_is_added(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Recorder:
        def __init__(self, binding: object) -> None:
            self.binding = binding

        def __getattr__(self, name: str) -> object:
            if name.startswith("bind"):
                calls.append(name)
            return getattr(self.binding, name)

    table = BlockTable(engine.cache)
    append(engine, table, [1] * BLOCK)
    append(engine, table, [1])
    monkeypatch.setattr(engine, "_binding", Recorder(engine._binding))
    for _ in range(BLOCK - 1):
        append(engine, table, [2])
    assert calls == []
    append(engine, table, [2])
    assert sorted(calls) == ["bind_input"] * 3 + ["bind_output"] * 2


def test_only_the_rows_in_use_are_bound(engine: Engine) -> None:
    table = BlockTable(engine.cache)
    for length in range(1, 2 * BLOCK + 2):
        append(engine, table, [1])
        assert engine._bound_rows == -(-length // BLOCK) * BLOCK


def test_a_chunk_may_ask_for_no_logits(engine: Engine) -> None:
    table = BlockTable(engine.cache)
    table.append(3)
    logits = engine.forward(PackedBatch.of_sequence([1, 2, 3], table, sample=False))
    assert logits.shape == (0, VOCAB)
    np.testing.assert_array_equal(append(engine, table, [4]), expected_logits([1, 2, 3, 4]))


def test_the_cache_may_be_smaller_than_the_context(bundle: Bundle) -> None:
    assert Engine(bundle).cache.num_rows == POSITIONS
    assert Engine(bundle, cache_tokens=9).cache.num_rows == 3 * BLOCK
    for arguments in ({"cache_tokens": 0}, {"threads": 0}):
        with pytest.raises(EngineError, match="must be at least 1"):
            Engine(bundle, **arguments)


def test_a_cache_beyond_the_address_space_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"cache\.0: cannot reserve .* MiB .*shorter context"):
        Engine(bundle, cache_tokens=1 << 50)


def test_long_prompts_take_shorter_chunks(bundle: Bundle, engine: Engine) -> None:
    assert engine.prefill_chunk(100) == PREFILL_CHUNK
    model = dataclasses.replace(bundle.manifest.model, config={"num_attention_heads": 16})
    engine.manifest = dataclasses.replace(bundle.manifest, model=model)
    assert engine.prefill_chunk(8192) == PREFILL_CHUNK
    assert engine.prefill_chunk(131_072) == 32
    assert engine.prefill_chunk(1 << 40) == BLOCK


def test_a_failure_inside_onnxruntime_is_an_engine_error(engine: Engine) -> None:
    table = BlockTable(engine.cache)
    table.append(1)
    batch = PackedBatch.of_sequence([VOCAB + 5], table)
    with pytest.raises(EngineError, match="ONNX Runtime failed on 1 tokens"):
        engine.forward(batch)
    np.testing.assert_array_equal(
        engine.forward(PackedBatch.of_sequence([3], table))[0], expected_logits([3])
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx": OnnxParts(toy_manifest().graph, Requires("1.12", "CPUExecutionProvider"))},
         r"built for onnxruntime 1\.12, found .*; `pip install 'onnxruntime==1\.12\.\*'`"),
        ({"onnx": OnnxParts(toy_manifest().graph, Requires("1.31", "CUDAExecutionProvider"))},
         "built for CUDAExecutionProvider"),
        ({"target": "tensorrt-llm", "onnx": None}, "an engine for tensorrt-llm.*--target onnx"),
    ],
)  # fmt: skip
def test_an_engine_for_another_runtime_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    manifest = dataclasses.replace(toy_manifest(), **changes)
    with pytest.raises(EngineError, match=message):
        Engine(Bundle.load(write_toy_engine(tmp_path / "engine", manifest)))


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
        Engine(Bundle.load(tmp_path / "engine"))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "engine") as writer:
        (writer.folder / "model.onnx").write_bytes(b"no graph")
        writer.commit(toy_manifest())
    with pytest.raises(EngineError, match="ONNX Runtime cannot load the graph"):
        Engine(Bundle.load(tmp_path / "engine"))


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
        Engine(bundle)


def test_two_onnxruntime_packages_are_told_apart(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_onnxruntime(monkeypatch, {"onnxruntime", "onnxruntime-gpu"})
    with pytest.raises(DependencyError, match="both installed and overwrite each other"):
        Engine(bundle)


def test_the_runtime_imports_nothing_that_only_builds_need(bundle: Bundle) -> None:
    import subprocess

    code = (
        "import sys, json\n"
        "from trtcoder.runtime import open_engine\n"
        f"open_engine({str(bundle.folder)!r}).complete('a', max_tokens=2).text()\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"torch", "transformers", "onnx", "onnx_ir", "jinja2", "ml_dtypes"} & set(loaded)
