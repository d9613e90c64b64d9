"""What `--provider cuda` takes, refuses and states."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.engines import write_checkpoint
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cli import main
from trtcoder.errors import EngineError
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("cuda") / "checkpoint", tiny_grouped_config())


@pytest.fixture(scope="module")
def engine(source: Checkpoint) -> Path:
    out = source.folder.parent / "engine"
    result = build(source.folder, "--out", out, "--cache", "fp8", "--tokens", "64", "--no-gate")
    assert result.exit_code == 0, result.output
    return out


def build(checkpoint: Path, *arguments: str | Path) -> Result:
    given = ["build", checkpoint, "--provider", "cuda", *arguments]
    return CliRunner().invoke(main, list(map(str, given)), catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "fp8"], "--weights fp8: --provider cuda stores int4 or int8"),
        (["--weights", "fp32"], "--weights fp32: --provider cuda stores int4 or int8"),
        (["--max-kl", "0.1"], "--weights mixed: --provider cuda stores int4 or int8"),
        (["--block-size", "16"], "blocks of 32, 64, 128"),
        (["--block-size", "256"], "blocks of 32, 64, 128"),
        (["--activations", "dynamic"], "with --provider cuda use one of bf16, fp16"),
        (["--fp8-scales", "block"], "--fp8-scales is for --weights fp8"),
        (["--cache", "fp32"], "with --activations bf16, the cache is bf16, int8 or fp8"),
        (["--cache", "fp16"], "with --activations bf16, the cache is bf16, int8 or fp8"),
        (["--target", "tensorrt-llm"], "--provider cuda: is for --target onnx"),
    ],
)
def test_what_cuda_does_not_take_is_refused_before_anything_is_read(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = build(tmp_path / "nothing", "--out", tmp_path / "engine", *arguments)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_experts_of_a_width_that_cuda_refuses_are_refused_with_the_block_that_pads_them(
    tmp_path: Path,
) -> None:
    odd = write_checkpoint(tmp_path / "odd", tiny_config(moe_intermediate_size=96))
    result = build(odd.folder, "--out", tmp_path / "engine")
    assert result.exit_code == 1
    assert "experts are 96 wide" in result.output
    assert "--block-size 64" in result.output
    assert not (tmp_path / "engine").exists()
    padded = build(odd.folder, "--dry-run", "--block-size", "64")
    assert padded.exit_code == 0


@pytest.mark.parametrize("activations", ["bf16", "fp16"])
def test_half_precision_is_refused_on_the_cpu(
    source: Checkpoint, tmp_path: Path, activations: str
) -> None:
    arguments = ["build", str(source.folder), "--activations", activations, "--dry-run"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "is for --provider cuda" in result.output


def test_the_manifest_says_what_it_needs_and_what_was_verified(engine: Path) -> None:
    bundle = Bundle.load(engine)
    parts = bundle.manifest.onnx_parts
    assert parts.requires.provider == "CUDAExecutionProvider"
    assert parts.requires.package == "onnxruntime-gpu"
    assert parts.twin in bundle.manifest.files
    assert {cache.dtype for cache in parts.graph.caches} == {"float8e4m3fn"}
    recipe = bundle.manifest.recipe
    assert (recipe["provider"], recipe["activations"], recipe["cache"]) == ("cuda", "bf16", "fp8")
    certificate = json.loads((engine / "parity.json").read_text())
    assert "twin.onnx on the CPU" in json.dumps(certificate)
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


def test_inspect_and_verify_know_it(engine: Path) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(engine)]).output
    assert "onnxruntime-gpu 1.31, CUDAExecutionProvider" in shown
    assert "on an NVIDIA GPU" in shown


@pytest.mark.parametrize("change", [{"twin": None}, {"twin": "twin.onnx", "provider": "CPU"}])
def test_a_manifest_whose_provider_and_twin_do_not_go_together_is_refused(
    engine: Path, change: dict[str, Any]
) -> None:
    manifest = Bundle.load(engine).manifest
    requires = manifest.requires
    if "provider" in change:
        requires = dataclasses.replace(requires, provider="CPUExecutionProvider")
    parts = dataclasses.replace(manifest.onnx_parts, twin=change["twin"], requires=requires)
    with pytest.raises(EngineError, match=r"onnx\.twin"):
        dataclasses.replace(manifest, onnx=parts).check()
