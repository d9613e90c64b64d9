"""What the target takes and refuses, before anything is read or compiled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.quantized_checkpoints import full_like, lite_like
from trtcoder.cli import main
from trtcoder.errors import DependencyError
from trtcoder.tensorrt_rtx import libraries
from trtcoder.testing.random_checkpoint import write_random_checkpoint


def dry(folder: Path, *options: str, config: dict[str, object] | None = None) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or lite_like()))
    result = CliRunner().invoke(main, ["build", str(folder), "--dry-run", *options])
    return result.exit_code, result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--compute-capability 75", r"75 \(RTX 20\): has no int4 kernels"),
        ("--compute-capability 8.9,9.0", r"90 \(H100, H200\).*--target tensorrt-llm"),
        ("--weights fp8", "take int4 only; use --weights int4, or int4.fp8"),
        ("--weights mixed --target-size 9999999", "take int4 only; use --weights int4, or int4"),
        ("--weights int4+fp8 --compute-capability 80", r"80 \(A100\): has no fp8.*89, 120, 121"),
        ("--weights int4+fp8 --compute-capability 89,86", r"86 \(RTX 30\): has no fp8 kernels"),
        ("--weights int4+fp8 --compute-capability 75", r"75 \(RTX 20\): has no int4 kernels"),
        ("--weights int4+fp8 --compute-capability 89,90", r"90 \(H100, H200\): TensorRT-RTX does"),
        ("--weights int4+fp8 --fp8-scales block", "writes matrices with scales of blocks out"),
        ("--weights int4+fp8 --activations dynamic", "plans take float or static"),
        ("--weights int4+fp8 --activations bf16", "plans take float or static"),
        ("--weights int4+fp8 --block-size 32", "in groups of 128 without zero points"),
        ("--compute-capability ada", "is no list of compute capabilities; give it as 86,89"),
        ("--block-size 32", "in groups of 128 without zero points"),
        ("--zero-points", "in groups of 128 without zero points"),
        ("--cache int8", "is float16; leave --cache out"),
        ("--fp8-scales block", r"--fp8-scales is for int4\+fp8, not for int4"),
        ("--activations static", r"--activations is for int4\+fp8, not for int4"),
        ("--provider cuda", "is for --target onnx, not for tensorrt-rtx; leave it out"),
        ("--slots 0", "slots is 0; it must be from 1 to 256"),
        ("--context 8", "context is 8; it must be from 16"),
        ("--chunk 0", "chunk is 0; it must be from 1"),
        ("--target-size 9999999", "--target-size chooses the precision itself"),
    ],
)
def test_what_no_plan_can_be_is_refused_with_the_remedy(
    tmp_path: Path, options: str, message: str
) -> None:
    status, output = dry(tmp_path / "c", "--target", "tensorrt-rtx", *options.split())
    assert status == 1
    assert re.search(message, output), output


@pytest.mark.parametrize("target", ["onnx", "tensorrt-llm", "compressed-tensors"])
def test_other_targets_do_not_store_experts_in_int4_and_the_rest_in_fp8(
    tmp_path: Path, target: str
) -> None:
    status, output = dry(tmp_path / "c", "--target", target, "--weights", "int4+fp8")
    assert status == 1
    assert re.search(rf"--weights int4\+fp8: --target {target} stores", output), output


@pytest.mark.parametrize("target", ["onnx", "tensorrt-llm", "compressed-tensors"])
@pytest.mark.parametrize(
    "options", ["--slots 4", "--compute-capability 89", "--weight-streaming", "--chunk 9"]
)
def test_other_targets_are_not_compiled(tmp_path: Path, target: str, options: str) -> None:
    status, output = dry(tmp_path / "c", "--target", target, *options.split())
    assert status == 1
    assert f"are for --target tensorrt-rtx, not for {target}; leave them out" in output


@pytest.mark.parametrize("weights", ["int4", "int4+fp8"])
@pytest.mark.parametrize("kind", [lite_like, full_like])
def test_a_dry_run_counts_the_plans_beside_the_weights(
    tmp_path: Path, kind: object, weights: str
) -> None:
    assert callable(kind)
    status, output = dry(
        tmp_path / "c", "--target", "tensorrt-rtx", "--weights", weights, "--json",
        config=kind(num_hidden_layers=2),
    )  # fmt: skip
    assert status == 0, output
    found = json.loads(output)
    weights = sum(each["bytes"] for each in found["classes"].values())
    embedding = found["classes"]["embedding"]["bytes"]
    # Files are whole pages.
    assert 0 <= found["engine_bytes"] - (2 * weights - embedding) < 64 * 4096


def test_without_its_packages_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name: f"no_module_of_{module}" for name, module in libraries._MODULES.items()}
    monkeypatch.setattr(libraries, "_MODULES", names)
    with pytest.raises(DependencyError, match=r"trtcoder\[rtx\].*then.*--no-deps onnxruntime-ep"):
        libraries.require_packages()
    source = write_random_checkpoint(tmp_path / "c", lite_like())
    out = tmp_path / "engine"
    result = CliRunner().invoke(
        main, ["build", str(source), "--target", "tensorrt-rtx", "--out", str(out)]
    )
    assert result.exit_code == 1
    assert "are not installed; `pip install 'trtcoder[rtx]'`" in result.output
    assert not list(tmp_path.glob("*engine*"))
