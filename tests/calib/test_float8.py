from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.engines import build_engine, inner_values, probe, write_checkpoint
from tests.reference.model import NumpyReference
from trtcoder.bundle.folder import Bundle
from trtcoder.calib.quantizers.quantizer import RoundToNearest
from trtcoder.calib.storage.float8 import (
    LARGEST,
    VALUES,
    Float8,
    dequantize,
    quantize,
    scale_for,
)
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import Recipe, preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.weights import float8 as float8_weights
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

Floats = NDArray[np.float32]
E4M3 = ml_dtypes.float8_e4m3fn
SCALES = ("block", "tensor")
SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 300))
IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
FINITE = np.flatnonzero(np.isfinite(VALUES)).astype(np.uint8)


def matrix(shape: tuple[int, int], seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)
    values *= np.exp(2 * rng.standard_normal(shape))
    values[rng.random(shape) < 0.1] = 0
    return values.astype(np.float32)


def spread(scales: Floats, shape: tuple[int, int]) -> Floats:
    """Return each value's scale."""
    if scales.shape == (1,):
        return np.broadcast_to(scales, shape)
    return np.kron(scales, np.ones((128, 128), np.float32))[: shape[0], : shape[1]]


@given(st.integers(0, 99), st.booleans(), st.tuples(st.integers(1, 6), st.integers(1, 200)))
def test_every_value_goes_to_the_nearest_of_all_codes(
    seed: int, per_block: bool, shape: tuple[int, int]
) -> None:
    weights = matrix(shape, seed)
    stored = quantize(weights, Float8(per_block), "w")
    scales = spread(stored.scales, shape).astype(float)
    candidates = VALUES[FINITE].astype(float) * scales[..., None]
    nearest = np.abs(candidates - weights[..., None].astype(float)).min(axis=-1)
    found = np.abs(dequantize(stored).astype(float) - weights)
    # value / scale is rounded to float32 before it is rounded to float8: a tie of 2 ** -24.
    assert (found <= nearest + 1e-7 * np.abs(weights)).all()


@given(SHAPES, st.booleans(), st.integers(0, 99))
def test_codes_are_those_of_ml_dtypes_and_scales_those_of_the_largest_value(
    shape: tuple[int, int], per_block: bool, seed: int
) -> None:
    weights = matrix(shape, seed)
    stored = quantize(weights, Float8(per_block), "w")
    assert stored.scales.shape == Float8(per_block).scale_shape(*shape)
    for row, column in np.ndindex(*stored.scales.shape) if per_block else [(0, 0)]:
        block = np.s_[row * 128 : (row + 1) * 128, column * 128 : (column + 1) * 128]
        part = weights[block] if per_block else weights
        scale = stored.scales[row, column] if per_block else stored.scales[0]
        if part.any():
            assert scale == np.abs(part).max() / np.float32(448)
        wanted = np.clip(part / scale, -448, 448).astype(E4M3)
        found = stored.codes[block] if per_block else stored.codes
        np.testing.assert_array_equal(found, wanted.view(np.uint8))


@given(st.permutations(FINITE.tolist()), st.integers(-30, 30), st.booleans())
def test_all_codes_come_back(codes: list[int], exponent: int, per_block: bool) -> None:
    values = VALUES[np.array(codes)][None] * np.float32(2.0**exponent)
    if per_block:  # the second block needs the largest value as well
        values = np.concatenate([values, np.full((1, values.shape[1]), 448 * 2.0**exponent)])
    stored = quantize(values.astype(np.float32), Float8(per_block), "w")
    np.testing.assert_array_equal(stored.codes[0], codes)
    np.testing.assert_array_equal(dequantize(stored), values)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 1e-30, 3e38])
@pytest.mark.parametrize("per_block", [True, False])
def test_scales_are_never_zero_or_infinite(largest: float, per_block: bool) -> None:
    weights = np.zeros((130, 130), np.float32)
    weights[0, 0] = largest
    stored = quantize(weights, Float8(per_block), "w")
    assert (stored.scales >= np.finfo(np.float32).tiny).all()
    assert np.isfinite(stored.scales).all()
    restored = dequantize(stored)
    assert not restored[1:].any()
    # Where the scale cannot be small enough the value is rounded as any other, and lost below half
    # of float8's smallest, 2 ** -9.
    error = 2.0**-4 if largest < LARGEST * np.finfo(np.float32).tiny else 1e-6
    assert abs(restored[0, 0] - np.float32(largest)) <= 2.0**-136 + error * largest


@given(st.floats(0, 2.9e7), st.sampled_from(["bfloat16", "float16"]))
def test_a_scale_is_the_next_one_that_its_type_holds(largest: float, scale_type: str) -> None:
    scale, exact = float(scale_for(largest, scale_type)), float(scale_for(largest))
    # Types and their smallest normal numbers: what is smaller GPUs take for zero.
    types = {"bfloat16": (ml_dtypes.bfloat16, 2.0**-126), "float16": (np.float16, 2.0**-14)}
    held, smallest = types[scale_type]
    assert float(held(scale)) == scale >= exact
    below = float(np.nextafter(held(scale), held(0)))
    assert below < exact or scale == smallest


def test_a_float16_scale_that_is_too_large_is_infinite() -> None:
    assert np.isinf(scale_for(3e7, "float16"))


def test_scales_of_an_unknown_type_are_refused() -> None:
    with pytest.raises(BuildError, match="scale type: 'float64' is unknown; use one of float32"):
        Float8(scale_type="float64")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(bad: float) -> None:
    weights = np.ones((2, 32), np.float32)
    weights[1, 3] = bad
    with pytest.raises(BuildError, match=r"layers\.3.*not finite"):
        quantize(weights, Float8(), "layers.3/mlp/down_proj/weight")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("fp8") / "checkpoint", tiny_config())


@pytest.fixture(scope="module")
def engines(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("engines")
    return {
        scales: build_engine(source, folder / scales, "fp8", fp8_scales=scales) for scales in SCALES
    }


@pytest.mark.parametrize("scales", SCALES)
def test_the_graph_multiplies_with_what_dequantize_returns(
    source: Checkpoint, engines: dict[str, Bundle], scales: str
) -> None:
    plan = OnnxRuntime().plan(source, preset("fp8", fp8_scales=scales))
    plain = ["layers.0/mlp/down_proj", "layers.1/attention/q_kv_a_proj"]
    experts = ("layers.1/moe/experts/gate_up", "layers.1/moe/experts/down")
    names = [
        *(f"{name}/weight/dequantized" for name in plain),
        *(f"{name}/dequantized" for name in experts),
    ]
    *found, gate_up, down = inner_values(engines[scales], IDS, *names)
    scheme = Float8(scales == "block")
    for name, value in zip(plain, found, strict=True):
        wanted = plan.weights.matrices[f"{name}/weight"].source.read()
        np.testing.assert_array_equal(value, dequantize(quantize(wanted, scheme, name)))
    for index in (0, 15):
        three = [
            plan.weights.matrices[f"layers.1/moe/experts/{role}[{index}]"].source.read()
            for role in ("gate", "up", "down")
        ]
        # One matmul makes gate and up, so that per tensor they share a scale.
        largest = max(np.abs(three[0]).max(), np.abs(three[1]).max())
        pair = [dequantize(quantize(part, scheme, "w", largest)) for part in three[:2]]
        np.testing.assert_array_equal(gate_up[index, 0::2], pair[0])
        np.testing.assert_array_equal(gate_up[index, 1::2], pair[1])
        np.testing.assert_array_equal(down[index], dequantize(quantize(three[2], scheme, "w")))


@pytest.mark.parametrize("scales", SCALES)
def test_the_values_are_one_byte_each_in_the_file(engines: dict[str, Bundle], scales: str) -> None:
    import onnx

    model = onnx.load(str(engines[scales].graph_path), load_external_data=False)
    down = {t.name: t for t in model.graph.initializer}["layers.0/mlp/down_proj/weight"]
    assert down.data_type == onnx.TensorProto.FLOAT8E4M3FN
    length = next(int(entry.value) for entry in down.external_data if entry.key == "length")
    assert length == 128 * 192


@pytest.mark.parametrize("scales", SCALES)
def test_row_ranges_do_not_change_what_is_stored(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scales: str
) -> None:
    whole = build_engine(source, tmp_path / "whole", "fp8", fp8_scales=scales)
    monkeypatch.setattr(float8_weights, "CHUNK_VALUES", 1000)
    parts = build_engine(source, tmp_path / "parts", "fp8", fp8_scales=scales)
    for name in whole.manifest.files:
        assert (whole.folder / name).read_bytes() == (parts.folder / name).read_bytes()


class Recorder(RoundToNearest):
    """Keeps what the stored rows stand for."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, Floats]] = []

    def keep(self, name: str, start: int, restored: Floats) -> None:
        self.kept.append((name, start, restored))


def rounded_checkpoint(source: Checkpoint, recipe: Recipe, folder: Path) -> Checkpoint:
    """Return a checkpoint whose weights are what float8 made of ``source``'s."""
    recorder = Recorder()
    plan = OnnxRuntime().plan(source, recipe, recorder)
    for step in plan.weights.steps:
        step.produce()
    tensors = {name: source.read(name) for name in source.tensors}
    for name, start, restored in recorder.kept:
        matrix = plan.weights.matrices[name].source
        for piece, rows, place in matrix.parts(start, start + len(restored)):
            target = piece.chosen(rows)
            tensors[piece.tensor][target] = restored[place]
    folder.mkdir()
    config = (source.folder / "config.json").read_text().replace('"bfloat16"', '"float32"')
    (folder / "config.json").write_text(config)
    save_file(tensors, folder / "model.safetensors")
    return Checkpoint.open(folder)


@pytest.mark.parametrize("config", [tiny_config(), tiny_grouped_config()], ids=["lite", "full"])
@pytest.mark.parametrize("scales", SCALES)
def test_with_float_activations_an_engine_computes_with_the_rounded_weights(
    config: dict[str, object], scales: str, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", config)
    options: dict[str, Any] = {"fp8_scales": scales, "activations": "float"}
    engine = build_engine(source, tmp_path / "engine", "fp8", **options)
    rounded = rounded_checkpoint(source, preset("fp8", **options), tmp_path / "rounded")
    found = probe(engine, source).run(IDS).logits
    wanted = NumpyReference(rounded.folder).run(IDS, list(range(50))).logits
    # float32 sums against float64: about 1e-6 of the largest logit, measured.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    exact = NumpyReference(source.folder).run(IDS, list(range(50))).logits
    assert np.abs(wanted - exact).max() > 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_options_of_fp8_are_refused_with_other_weights(weights: str) -> None:
    given: list[dict[str, Any]] = [{"fp8_scales": "block"}, {"activations": "dynamic"}]
    for option in given:
        with pytest.raises(BuildError, match=rf"only for --weights fp8, not for {weights}"):
            preset(weights, **option)


def test_unknown_options_of_fp8_are_refused() -> None:
    with pytest.raises(BuildError, match="'row' is unknown"):
        preset("fp8", fp8_scales="row")
    with pytest.raises(BuildError, match="'int8' is unknown"):
        preset("fp8", activations="int8")


def test_experts_are_float8_altogether_or_not_at_all(source: Checkpoint) -> None:
    recipe = preset("fp8")
    for other in (FLOAT32, Scheme(8), Float8(per_block=False)):
        mixed = Recipe("fp8", {**recipe.schemes, "experts_down": other}, "fp32", 0, "dynamic")
        with pytest.raises(BuildError, match="fp8 altogether"):
            OnnxRuntime().plan(source, mixed)


def test_an_embedding_is_not_float8(source: Checkpoint) -> None:
    recipe = preset("fp8")
    assert {recipe.schemes[kind] for kind in ("embedding", "lm_head")} == {FLOAT32}
    tables = Recipe("fp8", {**recipe.schemes, "embedding": Float8()}, "fp32", 0, "dynamic")
    with pytest.raises(BuildError, match="embedding: cannot be stored as fp8"):
        OnnxRuntime().plan(source, tables)


def test_the_certificate_says_how_each_tensor_is_stored(source: Checkpoint) -> None:
    plan = OnnxRuntime().plan(source, preset("fp8"))
    records = [record for step in plan.weights.steps for record in step.produce().records]
    schemes = {record.scheme for record in records if record.method != "exact"}
    assert schemes == {"fp8 e4m3 128x128"}
    # Three bits of mantissa: 31.4 to 31.7 dB, measured, whatever the scales.
    assert all(31 < (r.snr_db or 0) < 32 for r in records if r.method != "exact")


def test_the_demo_model_stays_close_with_rounded_weights(tmp_path: Path) -> None:
    demo = Checkpoint.open(Path(__file__).parents[2] / "demo" / "checkpoint")
    ids = np.random.default_rng(0).integers(0, 4000, 200).tolist()
    engines = (
        build_engine(demo, tmp_path / "fp32"),
        build_engine(demo, tmp_path / "fp8", "fp8", activations="float"),
    )
    logits = [probe(engine, demo).run(ids).logits for engine in engines]
    wanted, found = (x - np.log(np.exp(x.astype(float)).sum(-1, keepdims=True)) for x in logits)
    divergence = (np.exp(wanted) * (wanted - found)).sum(-1).mean()
    assert 0 < divergence < 0.02
