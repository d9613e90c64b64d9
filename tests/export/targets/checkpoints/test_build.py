"""Quantized checkpoints are built, certified, refused and kept like every engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.export.targets.checkpoints.conftest import Quantized, Source
from tests.quantized_checkpoints import FORMS, build
from trtcoder.bundle.folder import Bundle
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cli import main
from trtcoder.export.recipe import RecipeOptions
from trtcoder.export.targets.registry import find_target


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["lite", "236b"])
@pytest.mark.parametrize("form", FORMS)
def test_its_certificate_says_what_its_values_cost(
    quantized: Quantized, kind: str, form: str
) -> None:
    folder = quantized(kind, form)
    bundle = Bundle.load(folder)
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["precision"] == form.partition("-")[0]
    assert 0 < parity["logits"]["kl_mean"] < 0.2
    assert {"transformers", "ml_dtypes"} <= set(parity["reference"]["versions"])
    # With rounded activations the weights alone cost less than the whole.
    alone = parity["weights_only_kl"]
    assert (alone is None) == form.startswith("int4")
    assert alone is None or alone < parity["logits"]["kl_mean"]
    parts = bundle.manifest.quantized
    assert parts is not None
    assert "lm_head" in parts.excluded
    assert ("tensorrt-llm" in parts.readers) != form.startswith("int4")
    tensors = {tensor["name"]: tensor for tensor in parity["tensors"]}
    assert tensors["layers.1/moe/experts/up[7]"]["scheme"].startswith(
        ("int4 b", "fp8 e4m3", "nvfp4 b16")
    )
    assert tensors["lm_head/weight"]["scheme"] == "bf16"


def test_it_is_verified_inspected_reported_and_not_served(
    source: Source, quantized: Quantized, tmp_path: Path
) -> None:
    folder, checkpoint = quantized("lite", "fp8-block"), source("lite")
    again = run("verify", folder, "--reference", checkpoint, "--report", "-", "--tokens", "120")
    assert (
        json.loads(again.stdout)["logits"]
        == json.loads((folder / "parity.json").read_text())["logits"]
    )
    shown = run("inspect", folder).output
    assert "tensorrt-llm, vllm, sglang" in shown
    assert "model.layers.*.self_attn.kv_b_proj" in shown
    page = tmp_path / "page.html"
    assert run("report", folder, "--out", page).exit_code == 0
    assert "fp8 e4m3 128x128" in page.read_text(encoding="utf-8")
    assert run("diff", folder, quantized("lite", "int4-32")).exit_code == 0
    refused = run("complete", folder, "abc")
    assert refused.exit_code == 1
    assert "serve it, as its README.md says" in refused.output.replace("\n", " ")


def test_what_prompts_need_and_the_licence_go_along(source: Source, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(source("lite"), checkpoint)
    (checkpoint / "LICENSE-MODEL").write_text("the model's licence")
    out = tmp_path / "out"
    build(checkpoint, out, *FORMS["int4-32"])
    assert (out / "LICENSE-MODEL").read_text() == "the model's licence"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()
    card = (out / "README.md").read_text()
    assert "LICENSE-MODEL" in card
    assert "vllm-1x24gb.sh" in card


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_knows_its_bytes(source: Source, quantized: Quantized, form: str) -> None:
    options = dict(zip(FORMS[form][::2], FORMS[form][1::2], strict=False))
    target = find_target(options["--target"])
    recipe = target.recipe(
        RecipeOptions(
            weights=options.get("--weights"),
            block_size=int(options["--block-size"]) if "--block-size" in options else None,
            symmetric="zp" not in form,
            fp8_scales=options.get("--fp8-scales"),
        )
    )
    plan = target.plan(Checkpoint.open(source("lite")), recipe)
    manifest = Bundle.load(quantized("lite", form)).manifest
    files = {name: info.bytes for name, info in manifest.files.items() if name != "parity.json"}
    assert plan.nbytes == sum(files.values())
    assert set(plan.data_files) <= set(files)


def test_two_builds_have_the_same_bytes(
    source: Source, quantized: Quantized, tmp_path: Path
) -> None:
    for form in ("fp8-block", "int4-64-zp", "nvfp4"):
        build(source("236b"), tmp_path / form, *FORMS[form], "--no-gate")
        files = {
            path.relative_to(tmp_path / form): path.read_bytes()
            for path in (tmp_path / form).rglob("*")
            if path.is_file()
        }
        first = quantized("236b", form)
        assert files == {path: (first / path).read_bytes() for path in files}


def test_config_json_has_what_loaders_read_without_looking(quantized: Quantized) -> None:
    for form in FORMS:
        folder = quantized("lite", form)
        config = json.loads((folder / "config.json").read_text())
        for key in ("rope_scaling", "rope_theta", "attention_bias", "pad_token_id"):
            assert key in config
        assert config["torch_dtype"] == "bfloat16"
        assert "auto_map" not in config
        modelopt = folder / "hf_quant_config.json"
        assert modelopt.exists() == (form in ("fp8-modelopt", "nvfp4"))
        if modelopt.exists():
            stated = json.loads(modelopt.read_text())
            assert stated["producer"]["name"] == "modelopt"
            assert stated["quantization"]["torch_dtype"] == "bfloat16"
            excluded = stated["quantization"]["exclude_modules"]
            assert excluded == config["quantization_config"]["ignore"]
