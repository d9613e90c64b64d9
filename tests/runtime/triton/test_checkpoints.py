"""Repositories for NVIDIA's own backends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from trtcoder.cli import main

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
INT4 = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def checkpoint(folder: Path, quantization: Any) -> Path:
    folder.mkdir()
    config = {"model_type": "deepseek_v2", "max_position_embeddings": 4096}
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def triton(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["triton", *map(str, arguments)], catch_exceptions=False)


def test_float8_goes_to_tensorrt_llm_and_int4_to_vllm(tmp_path: Path) -> None:
    for name, quantization, model in (
        ("fp8", FP8, "tensorrt_llm"),
        ("int4", INT4, "vllm_model"),
    ):
        out = tmp_path / f"{name}-repository"
        result = triton(checkpoint(tmp_path / name, quantization), "-o", out, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["models"] == [model]
        placed = out / model / "1" / "engine"
        assert (placed / "model.safetensors").read_bytes() == b"weights"


def test_what_its_manifest_says_that_tensorrt_llm_would_misread_goes_to_vllm(
    tmp_path: Path,
) -> None:
    for readers, model in (
        (["vllm", "sglang"], "vllm_model"),
        (["tensorrt-llm", "vllm"], "tensorrt_llm"),
    ):
        source = checkpoint(tmp_path / model, {"quant_method": "modelopt", "quant_algo": "NVFP4"})
        manifest = {"quantized": {"form": "nvfp4-modelopt", "readers": readers, "excluded": {}}}
        (source / "manifest.json").write_text(json.dumps(manifest))
        result = triton(source, "-o", tmp_path / f"{model}-repository", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["models"] == [model]


def test_vllms_backend_is_told_where_and_how(tmp_path: Path) -> None:
    out = tmp_path / "r"
    source = checkpoint(tmp_path / "fp8", FP8)
    options = ("--backend", "vllm", "--gpus", 4, "--seen-at", "/models", "--context", 2048)
    assert triton(source, "-o", out, *options).exit_code == 0
    found = json.loads((out / "vllm_model" / "1" / "model.json").read_text())
    assert found["model"] == "/models/vllm_model/1/engine"
    assert found["tensor_parallel_size"] == 4
    assert found["enable_expert_parallel"] is True
    assert found["max_model_len"] == 2048
    assert 'backend: "vllm"' in (out / "vllm_model" / "config.pbtxt").read_text()


def test_nvidias_llmapi_model_is_told_and_run(tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert triton(checkpoint(tmp_path / "fp8", FP8), "-o", out).exit_code == 0
    version = out / "tensorrt_llm" / "1"
    settings = yaml.safe_load((version / "model.yaml").read_text())
    assert settings == {
        "model": str(version / "engine"),
        "backend": "_autodeploy",
        "world_size": 1,
        "max_seq_len": 4096,
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    # In the place of NVIDIA's folder, one with a model and a module beside it.
    nvidias = tmp_path / "nvidias"
    nvidias.mkdir()
    (nvidias / "helpers.py").write_text("WHOSE = 'NVIDIA'\n")
    (nvidias / "model.py").write_text(
        "from helpers import WHOSE\n\n\nclass TritonPythonModel:\n    whose = WHOSE\n"
    )
    script = "import model; print(model.TritonPythonModel.whose)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=version,
        capture_output=True,
        text=True,
        env={"TRTLLM_TRITON_MODEL": str(nvidias)},
        check=True,
    )
    assert done.stdout == "NVIDIA\n"


def test_what_the_build_advises_for_so_many_gpus_is_taken(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "fp8", FP8)
    (source / "launch").mkdir()
    for name, length in (("1x24gb", 100), ("8x80gb", 300), ("8x192gb", 400)):
        text = f"world_size: {name[0]}\nmax_seq_len: {length}\n"
        (source / "launch" / f"tensorrt-llm-{name}.yaml").write_text(text)
    for gpus, options, expected in ((1, (), 100), (8, (), 300), (8, ("--context", 50), 50)):
        out = tmp_path / f"r{expected}"
        assert triton(source, "-o", out, "--gpus", gpus, *options).exit_code == 0
        settings = yaml.safe_load((out / "tensorrt_llm" / "1" / "model.yaml").read_text())
        assert (settings["world_size"], settings["max_seq_len"]) == (gpus, expected)
        assert settings["triton_config"]["decoupled"] is True


@pytest.mark.parametrize("quantization", [None, "fp8", {"bits": 4}])
def test_a_checkpoint_that_is_not_quantized_is_to_be_built(
    tmp_path: Path, quantization: Any
) -> None:
    result = triton(checkpoint(tmp_path / "plain", quantization), "-o", tmp_path / "r")
    assert result.exit_code == 1
    assert "not an engine folder" in result.stderr
    assert not (tmp_path / "r").exists()
