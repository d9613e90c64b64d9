"""What the targets for GPU servers take and refuse, before anything is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.quantized_checkpoints import lite_like
from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import FULL_CONFIG, LITE_CONFIG


def dry(folder: Path, config: dict[str, object], *options: str) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(main, ["build", str(folder), "--dry-run", *options])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("tensorrt-llm --weights int4", "no int4 experts for this model.*--target compressed-ten"),
        ("tensorrt-llm --weights int8", "stores fp8 and nvfp4 only"),
        ("tensorrt-llm --weights nvfp4 --zero-points", "blocks of 16 without zero points; leave"),
        ("tensorrt-llm --weights nvfp4 --block-size 32", "blocks of 16 without zero points; leave"),
        ("tensorrt-llm --weights nvfp4 --fp8-scales tensor", "--fp8-scales is for fp8, not for nv"),
        ("tensorrt-llm --weights nvfp4 --activations dynamic", "under a scale from calibration"),
        ("tensorrt-llm --weights nvfp4 --cache fp8", "the server chooses its own cache"),
        ("onnx --weights nvfp4", "no kernels for it; use --target tensorrt-llm"),
        ("onnx --provider cuda --weights nvfp4", "no kernels for it; use --target tensorrt-llm"),
        ("compressed-tensors --weights nvfp4", "stores int4 only; use --target tensorrt-llm"),
        ("tensorrt-llm --target-size 9999999", "--target-size chooses the precision itself"),
        ("tensorrt-llm --activations static", "with dynamic scales where.*--fp8-scales block"),
        ("tensorrt-llm --fp8-scales tensor --activations dynamic", "with static scales where"),
        ("tensorrt-llm --cache int8", "the server chooses its own cache"),
        ("compressed-tensors --weights fp8", "stores int4 only; use --target tensorrt-llm"),
        ("compressed-tensors --weights mixed --max-kl 1", "stores int4 only"),
        ("compressed-tensors --block-size 16", "take groups of 128, 64, 32"),
        ("compressed-tensors --fp8-scales block", "--fp8-scales is for fp8"),
        ("compressed-tensors --cache fp8", "leave --cache out"),
        ("tensorrt-llm-engine", "1.2.1.*k_b_proj_trans.*fused_q_proj.*use --target tensorrt-llm,"),
    ],
)
def test_what_a_server_cannot_load_is_refused_with_the_remedy(
    tmp_path: Path, options: str, message: str
) -> None:
    status, output = dry(tmp_path / "c", lite_like(), "--target", *options.split())
    assert status == 1
    assert re.search(message, output.replace("\n", " ")), output


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"moe_intermediate_size": 192}, "tensorrt-llm", "use --fp8-scales tensor"),
        ({"moe_intermediate_size": 192}, "compressed-tensors", "use --block-size 64"),
        ({"moe_intermediate_size": 96}, "compressed-tensors", "use --target onnx"),
        ({"hidden_size": 192}, "compressed-tensors", "the hidden width must be a multiple of 128"),
        (
            {"moe_intermediate_size": 96},
            "tensorrt-llm --weights nvfp4",
            "use --weights fp8 --fp8-s",
        ),
        (
            {"hidden_size": 208},
            "tensorrt-llm --weights nvfp4",
            "width must be a multiple of 64",
        ),
        ({"moe_intermediate_size": 100}, "tensorrt-llm --weights nvfp4", "use --target onnx"),
        ({"moe_intermediate_size": 100}, "tensorrt-llm --fp8-scales tensor", "by 16.*target onnx"),
    ],
)
def test_experts_that_do_not_fit_a_form_name_one_that_they_fit(
    tmp_path: Path, changed: dict[str, object], options: str, message: str
) -> None:
    status, output = dry(tmp_path / "c", lite_like(**changed), "--target", *options.split())
    assert status == 1
    assert re.search(message, output.replace("\n", " ")), output


@pytest.mark.parametrize(
    ("config", "options", "bits"),
    [
        (LITE_CONFIG, "tensorrt-llm", 8.3),
        (LITE_CONFIG, "tensorrt-llm --fp8-scales tensor", 8.3),
        (LITE_CONFIG, "tensorrt-llm --weights nvfp4", 4.9),
        (LITE_CONFIG, "compressed-tensors", 4.6),
        (FULL_CONFIG | {"num_hidden_layers": 8}, "compressed-tensors", 4.6),
    ],
)
def test_a_dry_run_says_what_a_published_model_becomes(
    tmp_path: Path, config: dict[str, object], options: str, bits: float
) -> None:
    status, output = dry(tmp_path / "c", config, "--target", *options.split(), "--json")
    assert status == 0, output
    found = json.loads(output.splitlines()[-1])
    values = sum(each["values"] for each in found["classes"].values())
    assert 8 * found["engine_bytes"] / values < bits * 1.05
    assert found["classes"]["router"]["bytes"] == 2 * found["classes"]["router"]["values"]


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        (LITE_CONFIG, "tensorrt-llm", [(1, 1), (2, 2)]),
        (LITE_CONFIG, "tensorrt-llm --fp8-scales tensor", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4)]),
        (LITE_CONFIG, "tensorrt-llm --weights nvfp4", [(1, 1), (2, 2)]),
        (LITE_CONFIG, "compressed-tensors", [(1, 1), (2, 2)]),
        (FULL_CONFIG, "tensorrt-llm", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (8, 8)]),
    ],
)
def test_a_dry_run_has_only_the_splits_that_loaders_take(
    tmp_path: Path, config: dict[str, object], options: str, expected: list[tuple[int, int]]
) -> None:
    status, output = dry(tmp_path / "c", config, "--json", "--target", *options.split())
    assert status == 0, output
    ranks = json.loads(output.splitlines()[-1])["ranks"]
    assert [(rank["tp"], rank["ep"]) for rank in ranks] == expected
