from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from tests.engines import build_engine, inner_values, probe, write_checkpoint
from tests.graphs import run_graph
from tests.runtime.packing import ByHand, on_host
from trtcoder.bundle.folder import Bundle
from trtcoder.calib.storage.float8 import VALUES
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.float8 import cache_codes
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.llm import open_engine
from trtcoder.testing.random_checkpoint import tiny_config

E4M3 = ml_dtypes.float8_e4m3fn
IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("fp8") / "checkpoint", tiny_config())


@pytest.fixture(scope="module")
def engine(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_engine(source, tmp_path_factory.mktemp("e") / "engine", cache="fp8")


def encode(folder: Path, entry: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, scales and what they come back as, in two groups of 64."""

    b = GraphBuilder("cache")
    x = b.input("x", ir.DataType.FLOAT, ["tokens", 128])
    codes, scales = cache_codes.encode(b, "cache", x, 2, 64)
    b.output(codes, "codes")
    b.output(scales, "scales")
    b.output(cache_codes.restore(b, "cache", codes, scales, 2, 64), "rows")
    codes_found, scales_found, rows = run_graph(b, folder, {"x": entry})
    return codes_found, scales_found, rows


def test_codes_are_those_of_ml_dtypes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entry = rng.standard_normal((2000, 128)) * np.exp(4 * rng.standard_normal((2000, 128)))
    entry = entry.astype(np.float32)
    entry[0], entry[1, 64:] = 0, 0
    # All finite codes as they are, behind a scale of 1.
    entry[2:4] = np.nan_to_num(VALUES.reshape(2, 128), nan=448)
    codes, scales, rows = encode(tmp_path, entry)
    grouped = entry.reshape(-1, 2, 64)
    wanted_scales = np.maximum(
        np.abs(grouped).max(axis=2) / np.float32(448), np.finfo(np.float32).tiny
    )
    np.testing.assert_array_equal(scales, wanted_scales)
    wanted = np.clip(grouped / scales[..., None], -448, 448).astype(E4M3).reshape(-1, 128)
    bits = wanted.view(np.uint8)
    np.testing.assert_array_equal(codes, np.where(bits == 0x80, 0, bits))
    stands_for = wanted.astype(np.float32).reshape(-1, 2, 64) * scales[..., None]
    np.testing.assert_array_equal(rows, stands_for.reshape(-1, 128))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_fault_stays_visible(tmp_path: Path, bad: float) -> None:
    entry = np.ones((2, 128), np.float32)
    entry[1, 70] = bad
    *_, rows = encode(tmp_path, entry)
    assert np.isnan(rows[1, 70])
    assert np.isfinite(rows[0]).all()
    assert np.isfinite(rows[1, :64]).all()


def test_attention_sees_what_the_cache_holds(engine: Bundle) -> None:
    widths = {info.name: (info.dtype, info.width) for info in engine.manifest.graph.caches}
    assert widths["cache.0"] == ("uint8", 96)
    assert widths["cache_scale.0"] == ("float32", 3)
    name = "layers.1/attention"
    entry, codes, scales, rows = inner_values(
        engine, IDS, f"{name}/latent", "cache.1.out", "cache_scale.1.out", f"{name}/cache_rows"
    )
    grouped = entry.reshape(50, 3, 32)
    np.testing.assert_array_equal(scales[:50], np.abs(grouped).max(axis=2) / np.float32(448))
    wanted = np.clip(grouped / scales[:50, :, None], -448, 448).astype(E4M3)
    stands_for = (wanted.astype(np.float32) * scales[:50, :, None]).reshape(50, 96)
    np.testing.assert_array_equal(rows[:50], stands_for)
    assert not codes[50:].any()
    assert not rows[50:].any()


def test_the_float8_cache_is_close_to_the_float_cache(
    source: Checkpoint, engine: Bundle, tmp_path: Path
) -> None:
    exact = probe(build_engine(source, tmp_path / "exact"), source).run(IDS).logits
    watched = probe(engine, source)
    whole, parts = watched.run(IDS).logits, watched.run(IDS, chunk=1).logits
    error = np.abs(whole - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.1  # 2 ** -4 of each value, carried through three layers
    # A float32 sum differs in its last bits, which may turn a tie of the cache by one level: seldom
    # enough that most logits are the same.
    assert np.median(np.abs(parts - whole)) < 1e-5 * np.abs(whole).max()
    np.testing.assert_allclose(parts, whole, rtol=0, atol=2e-2 * np.abs(whole).max())


def test_rows_are_written_in_place_by_the_runtime(engine: Bundle) -> None:
    runner = ModelRunner(engine, threads=1, cache_tokens=64)
    cache = next(arena for arena in on_host(runner).arenas if arena.info.name == "cache.0")
    assert cache.array.dtype == np.uint8
    sequence = ByHand(runner)
    sequence.run(IDS[:20])
    before = cache.array.copy()
    assert before[:20].any(axis=1).all()
    assert not before[20:].any()
    sequence.run(IDS[20:21])
    assert cache.array[20].any()
    np.testing.assert_array_equal(cache.array[:20], before[:20])


def test_an_engine_of_fp8_throughout_serves(source: Checkpoint, tmp_path: Path) -> None:
    built = build_engine(source, tmp_path / "engine", "fp8", cache="fp8")
    expected = probe(built, source).run(IDS, chunk=1).logits
    sequence = ByHand(ModelRunner(built, threads=1, cache_tokens=64))
    for token, wanted in zip(IDS, expected, strict=True):
        # The same steps in both: float32 sums in another order at most.
        allowed = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(sequence.run([token]), wanted, rtol=0, atol=allowed)
    with open_engine(built.folder, threads=1, context=128) as llm:
        assert llm.stream("def quick_sort(arr):", max_tokens=8).text()
