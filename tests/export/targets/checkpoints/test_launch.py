"""The splits that launch files ask for pass the checks of the servers' loaders."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.recipe import RecipeOptions
from trtcoder.export.targets.checkpoints.form import form_of, readers
from trtcoder.export.targets.checkpoints.launch import (
    BLACKWELL,
    MACHINES,
    Launch,
    candidates,
    group_of,
    launch_files,
    launches,
)
from trtcoder.export.targets.checkpoints.plan import CheckpointPlan
from trtcoder.export.targets.checkpoints.splits import Split, problems
from trtcoder.export.targets.registry import find_target
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import FULL_CONFIG, LITE_CONFIG

# All layers but the first are alike: these few have every shape.
FEW = {"num_hidden_layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {"lite": LITE_CONFIG | FEW, "236b": FULL_CONFIG | FEW}
OPTIONS = {
    "fp8-block": ("tensorrt-llm", RecipeOptions()),
    "fp8-modelopt": ("tensorrt-llm", RecipeOptions(fp8_scales="tensor")),
    "nvfp4": ("tensorrt-llm", RecipeOptions(weights="nvfp4")),
    "int4-128": ("compressed-tensors", RecipeOptions()),
    "int4-64": ("compressed-tensors", RecipeOptions(block_size=64)),
    "int4-32-zp": ("compressed-tensors", RecipeOptions(block_size=32, symmetric=False)),
}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], CheckpointPlan]:
    found = {}
    for kind, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(kind)
        (folder / "config.json").write_text(json.dumps(config))
        source = Checkpoint.describe(folder)
        for form, (name, options) in OPTIONS.items():
            target = find_target(name)
            plan = target.plan(source, target.recipe(options))
            assert isinstance(plan, CheckpointPlan)
            found[kind, form] = plan
    return found


def allowed(plan: CheckpointPlan, split: Split) -> bool:
    config = DeepseekV2Config.of(plan.checkpoint.config)
    recipe = plan.recipe
    return not problems(config, form_of(recipe), group_of(recipe), plan.excluded, split)


def files_of(plan: CheckpointPlan, found: Sequence[Launch]) -> dict[str, str]:
    config, recipe = DeepseekV2Config.of(plan.checkpoint.config), plan.recipe
    served = readers(recipe, config.moe_intermediate_size)
    return launch_files(served, found, config.max_position_embeddings, form_of(recipe))


@pytest.mark.parametrize(
    ("kind", "form", "tensor", "expert"),
    [
        # Lite: 1,408 is 11 blocks, and 2,816, its shared experts, are 22. 236B: 1,536 is 12.
        ("lite", "fp8-block", {1}, {1, 2}),
        ("236b", "fp8-block", {1, 2, 4}, {1, 2, 4, 8}),
        ("lite", "int4-128", {1}, {1, 2}),
        ("lite", "int4-64", {1, 2}, {1, 2}),
        ("236b", "int4-128", {1, 2, 4}, {1, 2, 4, 8}),
        ("236b", "int4-64", {1, 2, 4, 8}, {1, 2, 4, 8}),
        ("236b", "int4-32-zp", {1, 2, 4, 8}, {1, 2, 4, 8}),
        # The eighth part of Lite's dense layer is 1,368 wide, which does not divide by 16.
        ("lite", "fp8-modelopt", {1, 2, 4}, {1, 2, 4}),
        ("236b", "fp8-modelopt", {1, 2, 4, 8}, {1, 2, 4, 8}),
        # Gate and up come in tiles of 128 rows: Lite's shared experts have 22, 236B's 24.
        ("lite", "nvfp4", {1}, {1, 2}),
        ("236b", "nvfp4", {1, 2, 4}, {1, 2, 4, 8}),
    ],
)
def test_the_splits_of_published_models(
    plans: dict[tuple[str, str], CheckpointPlan],
    kind: str,
    form: str,
    tensor: set[int],
    expert: set[int],
) -> None:
    plan, sizes = plans[kind, form], (1, 2, 4, 8)
    assert {tp for tp in sizes if allowed(plan, Split(tp))} == tensor
    assert {tp for tp in sizes if allowed(plan, Split(tp, 1, True))} == expert


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("form", OPTIONS)
def test_a_loader_takes_every_split_that_is_launched(
    plans: dict[tuple[str, str], CheckpointPlan], kind: str, form: str
) -> None:
    plan = plans[kind, form]
    config = DeepseekV2Config.of(plan.checkpoint.config)
    found = launches(config, plan.recipe, plan.excluded, plan.weights)
    machines = BLACKWELL if form == "nvfp4" else MACHINES
    assert [launch.machine for launch in found] == list(machines)
    for launch in found:
        for name, shape in stored_shapes(plan).items():
            check_shard(name, shape, launch.split, form)


def test_a_machine_that_is_too_small_gets_no_script(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FULL_CONFIG | {"num_hidden_layers": 12}))
    target = find_target("compressed-tensors")
    source = Checkpoint.describe(tmp_path)
    plan = target.plan(source, target.recipe(RecipeOptions()))
    assert isinstance(plan, CheckpointPlan)
    config = DeepseekV2Config.of(source.config)
    found = launches(config, plan.recipe, plan.excluded, plan.weights)
    # A fifth of the 236B model, in int4: 24 GB are too few.
    assert [launch.fits for launch in found] == [False, True, True]
    assert found[0].weights > 24e9
    files = files_of(plan, found)
    assert {name.rpartition("-")[2].partition(".")[0] for name in files} == {"1x80gb", "8x80gb"}


def stored_shapes(plan: CheckpointPlan) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each quantized module, from the declared tensors alone."""
    found: dict[str, tuple[int, int]] = {}
    for name, weight in plan.weights.declared.items():
        module, _, role = name.rpartition(".")
        if role == "weight_packed":
            found[module] = (weight.shape[0], weight.shape[1] * 8)
        elif weight.dtype.value == "U8":
            found[module] = (weight.shape[0], weight.shape[1] * 2)
        elif role == "weight" and weight.dtype.value == "F8_E4M3":
            found[module] = (weight.shape[0], weight.shape[1])
    return found


def check_shard(module: str, shape: tuple[int, int], split: Split, form: str) -> None:
    """Raise AssertionError where vLLM's loader raises.

    As vllm/model_executor/layers/quantization has it: `validate_fp8_block_shape` for layers (each
    part of a fused one by itself), `Fp8MoEMethod.create_weights` for experts;
    `verify_marlin_supports_shape` for packed layers, and `check_moe_marlin_supports_layer` with
    what `CompressedTensorsWNA16MarlinMoEMethod.create_weights` asks for packed experts. For NVFP4,
    `ModelOptNvFp4LinearMethod.create_weights` and `prepare_nvfp4_moe_layer_for_fi_or_cutlass`, and
    where TensorRT-LLM would read the scales of other rows (`FuseNVFP4SwiGLU` in AutoDeploy).
    """
    rows, columns = shape
    routed, role = ".mlp.experts." in module, module.rpartition(".")[2]
    cut = 1 if routed and split.expert_parallel else split.tp
    if role in ("q_proj", "q_b_proj", "gate_proj", "up_proj"):
        assert rows % cut == 0
        rows //= cut
    elif role in ("o_proj", "down_proj"):
        assert columns % cut == 0
        columns //= cut
    if form == "nvfp4":
        assert columns % 16 == 0
        if role in ("gate_proj", "up_proj"):
            padded = -(-rows // 128) * 128  # of the scales of one of them
            assert padded == rows
            assert 2 * rows % 128 == 0
    elif form == "fp8-block":
        assert rows % 128 == 0
        assert columns % 128 == 0
    elif form.startswith("int4") and routed:
        group = int(form.split("-")[1])
        hidden, inner = (rows, columns) if role == "down_proj" else (columns, rows)
        assert hidden % 128 == 0
        assert hidden % group == 0
        assert inner % max(64, group) == 0
    elif form.startswith("int4"):
        assert rows % 64 == 0
        assert columns % 128 == 0
        assert columns % int(form.split("-")[1]) == 0
    else:
        assert rows % 16 == 0
        assert columns % 16 == 0


def test_launch_files_say_what_the_table_says(
    plans: dict[tuple[str, str], CheckpointPlan],
) -> None:
    for (_, form), plan in plans.items():
        config = DeepseekV2Config.of(plan.checkpoint.config)
        found = launches(config, plan.recipe, plan.excluded, plan.weights)
        files = files_of(plan, found)
        assert any("tensorrt-llm" in name for name in files) != form.startswith("int4")
        assert all(("Blackwell" in text) == (form == "nvfp4") for text in files.values())
        for launch in found:
            name = launch.machine.name
            if not launch.fits:
                assert not any(name in file for file in files)
                continue
            vllm = shlex.split(files[f"launch/vllm-{name}.sh"].splitlines()[-1])
            assert number(vllm, "--tensor-parallel-size") == launch.split.tp
            assert number(vllm, "--data-parallel-size") == launch.split.dp
            assert ("--enable-expert-parallel" in vllm) == launch.split.expert_parallel
            if form.endswith("zp"):
                # SGLang asserts that its int4 experts are symmetric.
                assert f"launch/sglang-{name}.sh" not in files
                continue
            sglang = shlex.split(files[f"launch/sglang-{name}.sh"].splitlines()[-1])
            assert number(sglang, "--tp-size") * number(sglang, "--dp-size") == launch.machine.gpus
            assert number(sglang, "--ep-size") in (1, launch.split.tp)
            assert ("modelopt_fp4" in sglang) == (form == "nvfp4")
            if not form.startswith("int4"):
                settings = files[f"launch/tensorrt-llm-{name}.yaml"]
                assert f"world_size: {launch.machine.gpus}\n" in settings
                length = re.search(r"max_seq_len: (\d+)", settings)
                assert length is not None
                assert int(length[1]) <= launch.cache_tokens


def number(arguments: list[str], option: str) -> int:
    return int(arguments[arguments.index(option) + 1]) if option in arguments else 1


def test_autodeploy_settings_are_yaml_with_the_keys_that_it_reads(
    plans: dict[tuple[str, str], CheckpointPlan],
) -> None:
    yaml = pytest.importorskip("yaml")
    plan = plans["236b", "fp8-block"]
    config = DeepseekV2Config.of(plan.checkpoint.config)
    found = launches(config, plan.recipe, plan.excluded, plan.weights)
    files = files_of(plan, found)
    settings = yaml.safe_load(files["launch/tensorrt-llm-8x80gb.yaml"])
    assert settings["transforms"] == {
        "insert_cached_mla_attention": {"backend": "flashinfer_mla"},
        "detect_sharding": {"enable_attention_dp": True},
    }
    assert settings["compile_backend"] == "torch-cudagraph"


def test_tensorrt_llm_is_no_reader_of_experts_whose_scales_it_would_misplace(
    tmp_path: Path,
) -> None:
    target = find_target("tensorrt-llm")
    recipe = target.recipe(RecipeOptions(weights="nvfp4"))
    for width, served in ((192, ["vllm", "sglang"]), (256, ["tensorrt-llm", "vllm", "sglang"])):
        config = LITE_CONFIG | FEW | {"moe_intermediate_size": width}
        (tmp_path / "config.json").write_text(json.dumps(config))
        plan = target.plan(Checkpoint.describe(tmp_path), recipe)
        assert isinstance(plan, CheckpointPlan)
        known = DeepseekV2Config.of(plan.checkpoint.config)
        files = files_of(plan, launches(known, recipe, plan.excluded, plan.weights))
        found = {name.removeprefix("launch/").rpartition("-")[0] for name in files}
        assert found == set(served)


def test_candidates_use_all_gpus() -> None:
    assert all(split.gpus == 8 for split in candidates(8))
    assert [str(split) for split in candidates(8)] == [
        "TP 1 x DP 8 x EP 8", "TP 2 x DP 4 x EP 8", "TP 4 x DP 2 x EP 8", "TP 8 x EP 8",
    ]  # fmt: skip
