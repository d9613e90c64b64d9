from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engines import build_engine, inner_values, probe, write_checkpoint
from trtcoder.bundle.folder import Bundle
from trtcoder.calib.observers import ActivationObserver
from trtcoder.calib.quantizers.calibrated import CalibratedQuantizer, Observed
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import tiny_config

Floats = NDArray[np.float32]
E4M3 = ml_dtypes.float8_e4m3fn
IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
# 192 channels, which blocks of 128 do not divide, and 128.
ACTIVATIONS = {
    "layers.0/input_norm": 128,
    "layers.0/mlp/product": 192,
    "layers.1/post_attention_norm": 128,
    "layers.1/attention/heads": 160,
    "layers.2/moe/shared_experts/product": 128,
}


def to_float8(levels: Floats) -> Floats:
    return np.clip(levels, -448, 448).astype(E4M3).astype(np.float32)


def rounded(x: Floats, size: int) -> Floats:
    """Round each group of ``size`` channels of a token, the last one as far as it goes."""
    found = np.empty_like(x)
    for start in range(0, x.shape[-1], size):
        part = x[..., start : start + size]
        scale = np.abs(part).max(axis=-1, keepdims=True) / np.float32(448)
        scale = np.maximum(scale, np.finfo(np.float32).tiny)
        found[..., start : start + size] = to_float8(part / scale) * scale
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("fp8") / "checkpoint", tiny_config())


class FixedAmax(CalibratedQuantizer):
    """Knows what calibration would have found; expert 3 of each layer was never reached."""

    def __init__(self) -> None:
        super().__init__("rtn")

    def observed(self, key: str) -> Observed:
        observer = ActivationObserver(key, 1, with_hessian=False)
        if not key.endswith("[3]"):
            observer.add(np.array([[self.amax_of(key)]], np.float32))
        return Observed(observer)

    @staticmethod
    def amax_of(key: str) -> float:
        return 0.5 + len(key) / 100


def static_engine(source: Checkpoint, folder: Path) -> Bundle:
    from trtcoder.bundle.writer import BundleWriter

    plan = OnnxRuntime().plan(source, preset("fp8", activations="static"), FixedAmax())
    with BundleWriter(folder) as writer:
        write_engine(plan, writer.folder)
        writer.commit(plan.manifest(read_prompting(source, True), source.digest()))
    return Bundle.load(folder)


@pytest.mark.parametrize("scales", ["block", "tensor"])
def test_dynamic_rounding_is_that_of_ml_dtypes(
    source: Checkpoint, tmp_path: Path, scales: str
) -> None:
    engine = build_engine(source, tmp_path / "engine", "fp8", fp8_scales=scales)
    sizes = {name: 128 if scales == "block" else width for name, width in ACTIVATIONS.items()}
    names = [each for name, size in sizes.items() for each in (name, f"{name}/fp8_{size}")]
    values = dict(zip(names, inner_values(engine, IDS, *names), strict=True))
    for name, size in sizes.items():
        np.testing.assert_array_equal(values[f"{name}/fp8_{size}"], rounded(values[name], size))


@pytest.mark.parametrize("scales", ["block", "tensor"])
def test_experts_multiply_what_was_rounded(source: Checkpoint, tmp_path: Path, scales: str) -> None:
    engine = build_engine(source, tmp_path / "engine", "fp8", fp8_scales=scales)
    name = "layers.1/moe/experts"
    size = 128 if scales == "block" else 64
    x, gate_up, down, product, inside, logits, mixing, found = inner_values(
        engine, IDS, "layers.1/post_attention_norm/fp8_128", f"{name}/gate_up/dequantized",
        f"{name}/down/dequantized", f"{name}/product", f"{name}/product/rounded",
        "layers.1/moe/router", "layers.1/moe/router/probabilities", name,
    )  # fmt: skip
    gate, up = (np.einsum("th,eih->eti", x, gate_up[:, i::2], dtype=float) for i in (0, 1))
    # float32 sums of 128 products against float64.
    np.testing.assert_allclose(product, gate / (1 + np.exp(-gate)) * up, atol=1e-5)
    np.testing.assert_array_equal(inside, rounded(product, size))
    wanted = np.zeros_like(found)
    for token, chosen in enumerate(np.argsort(-logits, axis=1)[:, :4]):
        for expert in chosen:
            share = mixing[token, expert]
            wanted[token] += share * (down[expert].astype(float) @ inside[expert, token])
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_router_sees_what_was_not_rounded(source: Checkpoint, tmp_path: Path) -> None:
    import onnx

    engine = build_engine(source, tmp_path / "engine", "fp8")
    model = onnx.load(str(engine.graph_path), load_external_data=False)
    inputs = {node.name: node.input[0] for node in model.graph.node}
    assert inputs["layers.1/moe/router"] == "layers.1/post_attention_norm"
    assert inputs["layers.1/moe/shared_experts/gate_up_proj"].endswith("/fp8_128")
    assert inputs["layers.1/moe/experts/gate_up_proj"].endswith("/fp8_128")
    # Every matmul but the router's, the head's, and those with W_UK and W_UV.
    gemms = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    plain = [name for name in gemms if "/fp8_" not in inputs[name]]
    assert plain == ["layers.1/moe/router", "layers.2/moe/router", "lm_head"]
    assert len(gemms) == 3 * 2 + 2 + 2 * 3 + 1


def test_static_rounding_takes_the_scales_of_calibration(
    source: Checkpoint, tmp_path: Path
) -> None:
    engine = static_engine(source, tmp_path / "engine")
    names = [each for name in ACTIVATIONS for each in (name, f"{name}/fp8_static")]
    values = dict(zip(names, inner_values(engine, IDS, *names), strict=True))
    for name in ACTIVATIONS:
        scale = np.float32(FixedAmax.amax_of(name)) / np.float32(448)
        wanted = to_float8((values[name] / scale).astype(np.float32)) * scale
        np.testing.assert_array_equal(values[f"{name}/fp8_static"], wanted)


def test_each_expert_has_a_static_scale_and_one_never_reached_has_1(
    source: Checkpoint, tmp_path: Path
) -> None:
    engine = static_engine(source, tmp_path / "engine")
    name = "layers.1/moe/experts"
    product, found = inner_values(engine, IDS, f"{name}/product", f"{name}/product/fp8_static")
    for expert in range(16):
        amax = 448 if expert == 3 else FixedAmax.amax_of(f"{name}/product[{expert}]")
        scale = np.float32(amax) / np.float32(448)
        wanted = to_float8(product[expert] / scale) * scale
        np.testing.assert_array_equal(found[expert], wanted)
    plan = OnnxRuntime().plan(source, preset("fp8", activations="static"), FixedAmax())
    records = [record for step in plan.weights.steps for record in step.produce().records]
    said = {record.name for record in records if record.fallback}
    assert said == {f"layers.{layer}/moe/experts/down[3]" for layer in (1, 2)}


def test_static_scales_need_calibration(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="need calibration text; use --activations dynamic"):
        build_engine(source, tmp_path / "engine", "fp8", activations="static")


def test_a_scaled_activation_is_rounded_with_the_scale_of_what_is_left() -> None:
    quantizer = CalibratedQuantizer("awq")
    observer = ActivationObserver("x", 2, with_hessian=True)
    observer.add(np.array([[8.0, -2.0], [-4.0, 1.0]], np.float32))
    quantizer.add_activation("x", lambda: Observed(observer))
    assert quantizer.amax("x") == 8
    quantizer._scales["x"] = np.array([8.0, 0.5], np.float32)
    assert quantizer.amax("x") == 4


def test_decoding_rounds_as_prefill_does(source: Checkpoint, tmp_path: Path) -> None:
    engine = build_engine(source, tmp_path / "engine", "fp8", fp8_scales="tensor")
    watched = probe(engine, source)
    whole, parts = watched.run(IDS).logits, watched.run(IDS, chunk=1).logits
    # A float32 sum differs in its last bits, which may turn a tie of float8 by one level: 2 ** -4.
    assert np.median(np.abs(parts - whole)) < 1e-5 * np.abs(whole).max()
    np.testing.assert_allclose(parts, whole, atol=0.05 * np.abs(whole).max())
