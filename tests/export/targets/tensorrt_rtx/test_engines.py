"""Real plans of small checkpoints, by TensorRT-RTX' own compiler, which needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.quantized_checkpoints import build, full_like, lite_like
from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main
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
