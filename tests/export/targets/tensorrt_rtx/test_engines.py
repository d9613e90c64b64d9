"""Real plans of small checkpoints, by TensorRT-RTX' own compiler, which needs no GPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.quantized_checkpoints import build, full_like, lite_like
from trtcoder.bundle.certificate import Certificate
from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main
from trtcoder.export.targets.tensorrt_rtx.compilation import Compilation, Shapes, compile_in_child
from trtcoder.testing.random_checkpoint import write_random_checkpoint

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
pytest.importorskip(
    "onnxruntime_ep_nv_tensorrt_rtx", reason="TensorRT-RTX' plugins are not installed"
)
KINDS = {"lite": lite_like, "236b": full_like}
SMALL = ["--target", "tensorrt-rtx", "--compute-capability", "86,120", "--context", "256"]


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx")
    source = write_random_checkpoint(folder / "source", KINDS[request.param]())
    build(source, folder / "engine", *SMALL, "--no-gate")
    return folder / "engine"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    return result.exit_code, result.output


def test_it_is_compiled_certified_and_described(engine: Path) -> None:
    bundle = Bundle.load(engine)
    parts = bundle.manifest.compiled
    assert parts is not None
    assert [plan.layers for plan in parts.plans] == [(0, 2), None]
    assert parts.compute_capabilities == (86, 120)
    assert (parts.slots, parts.context, parts.chunk) == (8, 256, 256)
    assert set(parts.builder) == {"tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu13"}
    for plan in parts.plans:
        # A plan holds its weights, and code.
        weights = bundle.manifest.files[plan.graph.replace(".onnx", ".data")].bytes
        assert bundle.manifest.files[plan.file].bytes > 0.9 * weights
    assert (engine / "parity.json").is_file()
    status, shown = run("inspect", engine)
    assert status == 0
    assert "86 (RTX 30), 120 (RTX 50)" in shown
    assert "8 answers of 256 tokens, 256 of a prompt" in " ".join(shown.split())


def test_its_certificate_can_be_made_again_and_shown(engine: Path, tmp_path: Path) -> None:
    source = engine.parent / "source"
    status, shown = run(
        "verify",
        engine,
        "--reference",
        source,
        "--tokens",
        "60",
        "--report",
        tmp_path / "p.json",
        "--json",
    )
    assert status == 0, shown
    versions = json.loads(shown.splitlines()[-1])["reference"]["versions"]
    assert {"onnxruntime", "tensorrt-rtx-cu13"} <= versions.keys()
    status, shown = run("report", engine, "--out", tmp_path / "page.html")
    assert status == 0, shown


def test_serving_it_says_what_it_needs(engine: Path) -> None:
    status, shown = run("complete", engine, "def f", "--max-tokens", "1")
    if status == 0:
        pytest.skip("there is a GPU here")
    assert status == 1
    assert "NVIDIA GPU" in shown
    assert "Traceback" not in shown


@pytest.fixture(scope="module", params=["float", "static --method gptq"])
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx")
    source = write_random_checkpoint(folder / "source", lite_like())
    options = ["--weights", "int4+fp8", "--activations", *request.param.split()]
    build(source, folder / "engine", *options, "--target", "tensorrt-rtx", "--context", "256")
    return folder / "engine"


def test_everything_but_experts_is_fp8_and_all_say_so(mixture: Path) -> None:
    bundle = Bundle.load(mixture)
    parts, recipe = bundle.manifest.compiled, bundle.manifest.recipe
    assert parts is not None
    # Of the GPUs that plans are compiled for by default, RTX 30 has no fp8.
    assert parts.compute_capabilities == (89, 120)
    assert recipe["schemes"] == {
        "attention": "fp8 e4m3 tensor",
        "embedding": "bf16",
        "experts_down": "int4 b128",
        "experts_gate_up": "int4 b128",
        "lm_head": "fp16",
        "mlp": "fp8 e4m3 tensor",
    }
    certificate = Certificate.load(mixture / "parity.json")
    stored = {tensor.name: tensor.scheme for tensor in certificate.tensors}
    assert stored["layers.0/attention/o_proj/weight"] == "fp8 e4m3 tensor"
    assert stored["layers.1/moe/shared_experts/down_proj/weight"] == "fp8 e4m3 tensor"
    assert stored["layers.1/moe/experts/down[3]"] == "int4 b128"
    assert stored["layers.0/attention/absorb_k/weight"] == "fp16"
    status, shown = run("inspect", mixture)
    assert status == 0
    assert "fp8 e4m3 tensor (attention, mlp), int4 b128 (experts_down, experts_gate_up)" in shown


def test_a_plan_holds_fp8_weights_in_8_bits(mixture: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(mixture)
    parts = bundle.manifest.compiled
    assert parts is not None
    info = parts.plans[0]
    job = Compilation((89, 120), Shapes(8, 256, 256), False).job(mixture, info)
    held = compile_in_child(dataclasses.replace(job, plan=str(tmp_path / "plan"))).weights
    certificate = Certificate.load(mixture / "parity.json")
    weights = {each.name: each.bytes for each in certificate.tensors if "layers" in each.name}
    fp8 = sum(each.bytes for each in certificate.tensors if each.scheme.startswith("fp8"))
    # Unpacked they would take twice their bytes, here half as much again as all weights.
    assert 0.9 < held / sum(weights.values()) < 1.05 < 1 + fp8 / sum(weights.values())
