"""Mixed precision by a goal, and what a dry run says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import (
    FULL_CONFIG,
    LITE_CONFIG,
    tiny_config,
    write_random_checkpoint,
)

QUICK = ["--tokens", "300", "--calibration-tokens", "600"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Blocks of 128 divide these widths, so that every candidate can be chosen.
    config = tiny_config(moe_intermediate_size=128, kv_lora_rank=128)
    return write_random_checkpoint(tmp_path_factory.mktemp("mixed") / "checkpoint", config)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_smallest_engine_that_keeps_a_limit(checkpoint: Path, tmp_path: Path) -> None:
    measured: dict[str, dict[str, Any]] = {}
    for weights in ("int4", "int8"):
        result = run("build", checkpoint, "--out", tmp_path / weights, "--weights", weights,
                     *QUICK, "--json")  # fmt: skip
        measured[weights] = json.loads(result.stdout.splitlines()[-1])
    high, low = (measured[w]["parity"]["logits"]["kl_mean"] for w in ("int4", "int8"))
    limit = (high * low) ** 0.5
    out = tmp_path / "mixed"
    result = run("build", checkpoint, "--out", out, "--max-kl", str(limit), *QUICK, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["parity"]["logits"]["kl_mean"] <= limit
    assert found["parity"]["verdict"] == "passed"
    assert measured["int4"]["bytes"] < found["bytes"] < measured["int8"]["bytes"]
    plan = found["parity"]["plan"]
    assert plan["goal"] == {"max_kl": limit}
    assert plan["rounds"][-1]["measured_kl"] > 0
    # What was searched on took no part in judging, here and whenever the engine is verified.
    judged, searched = found["parity"]["text"], plan["search_text"]
    assert (judged["part"], searched["part"]) == ("judged", "searched")
    assert judged["tokens"] > 0
    assert searched["tokens"] > 0
    report = tmp_path / "again.json"
    again = run("verify", out, "--reference", checkpoint, "--report", report, "--tokens", "300")
    assert again.exit_code == 0, again.output
    assert json.loads(report.read_text()) | {"gates": []} == found["parity"] | {"gates": []}
    assert {entry["class"] for entry in plan["classes"]} >= {"attention", "experts_down"}
    chosen = {entry["class"]: entry["chosen"] for entry in plan["classes"]}
    assert len(set(chosen.values())) > 1
    schemes = Bundle.load(out).manifest.recipe["schemes"]
    assert chosen == schemes
    reported = run("report", out, "--out", tmp_path / "report.html")
    assert reported.exit_code == 0, reported.output


def test_the_best_engine_of_a_size(checkpoint: Path, tmp_path: Path) -> None:
    kl = {}
    for weights in ("int4", "int8"):
        options = ["--weights", weights, *QUICK, "--json"]
        result = run("build", checkpoint, "--out", tmp_path / weights, *options)
        kl[weights] = json.loads(result.stdout.splitlines()[-1])["parity"]["logits"]["kl_mean"]
    # Too small for int8 throughout.
    target = (size_of(tmp_path / "int4") + size_of(tmp_path / "int8")) // 2
    out = tmp_path / "mixed"
    result = run("build", checkpoint, "--out", out, "--target-size", str(target), *QUICK, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])["parity"]
    assert size_of(tmp_path / "int4") < size_of(out) <= target
    assert found["plan"]["goal"] == {"target_bytes": target}
    assert len({entry["chosen"] for entry in found["plan"]["classes"]}) > 1
    assert found["logits"]["kl_mean"] < 0.5 * kl["int4"]


def test_a_goal_that_nothing_meets_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for goal in (["--max-kl", "1e-12"], ["--target-size", "1000"]):
        result = run("build", checkpoint, "--out", tmp_path / "engine", *goal, *QUICK)
        assert result.exit_code == 1
        assert "no choice of schemes" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-kl", "0.1", "--target-size", "5"], "one of --max-kl and --target-size"),
        (["--weights", "mixed"], "one of --max-kl and --target-size"),
        (["--weights", "int4", "--target-size", "5"], "leave out --weights int4"),
        (["--target-size", "0"], "not above zero"),
        (["--max-kl", "-1"], "not above zero"),
    ],
)
def test_goals_that_contradict_are_one_line(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = run("build", checkpoint, "--out", tmp_path / "engine", *options)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("config", "parameters", "tensors_gib"),
    [(LITE_CONFIG, 15_706_484_224, 29.3), (FULL_CONFIG, 235_741_434_880, 439.1)],
    ids=["lite", "236b"],
)
def test_a_dry_run_says_what_a_build_takes(
    config: dict[str, Any], parameters: int, tensors_gib: float, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("build", tmp_path, "--dry-run", "--block-size", "128", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert sum(kind["values"] for kind in found["classes"].values()) == parameters
    assert found["checkpoint_bytes"] / 2**30 == pytest.approx(tensors_gib, abs=0.1)
    # Four bits and a float16 scale of 128 weights, and what stays in bf16: below five bits.
    assert 4.1 < 8 * found["engine_bytes"] / parameters < 5
    ranks = {(rank["tp"], rank["ep"]): rank for rank in found["ranks"]}
    alone, eight = ranks[1, 1]["weights_bytes"], ranks[8, 8]["weights_bytes"]
    # What stays whole on every rank is little.
    assert alone / 8 < eight < alone / 7
    assert ranks[8, 1]["weights_bytes"] > eight, "blocks of 128 do not divide an eighth of experts"
    shown = run("build", tmp_path, "--dry-run")
    assert "a rank, GiB" in shown.output
    assert f"{parameters:,}" in shown.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-kl", "0.1", "--target-size", "5"], "one of --max-kl and --target-size"),
        (["--weights", "mixed"], "one of --max-kl and --target-size"),
        (["--weights", "int4", "--target-size", "5"], "leave out --weights int4"),
        (["--weights", "fp32", "--activations", "static"], "only for --weights fp8"),
        (["--target-size", "0"], "not above zero"),
        (["--target-size", "1"], "no choice of schemes fits into"),
        (["--target-size", "1000"], "no choice of schemes fits into"),
        (["--max-kl", "-1"], "not above zero"),
        (["--max-kl", "nan"], "not a finite number"),
        (["--max-kl", "inf"], "not a finite number"),
        (["--block-size", "0"], "block"),
        (["--block-size", "-32"], "block"),
        (["--text", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--method", "gptq", "--calibration", "nowhere"], "nowhere: cannot be read"),
        (["--weights", "fp8", "--method", "gptq"], "--weights fp8 stores none; leave it out"),
        (["--target", "tensorrt-llm", "--method", "clip"], "chooses integers"),
        (["--target", "abacus"], "abacus"),
    ],
)
def test_a_dry_run_refuses_what_a_build_refuses(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    """The plan of both is made by the same code, before any weight is read."""
    out = ["--out", str(tmp_path / "engine")]
    dry, real = (run("build", checkpoint, *out, *options, *more) for more in (["--dry-run"], []))
    assert dry.exit_code == real.exit_code != 0
    assert dry.stderr == real.stderr
    assert message in dry.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_size_shows_what_fits_into_it(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    folder = tmp_path  # without weights
    everything = json.loads(run("build", folder, "--dry-run", "--max-kl", "1", "--json").stdout)
    assert "measured" in everything["unknown"]
    least, most = (everything[key]["engine_bytes"] for key in ("smallest", "largest"))
    assert least < most
    fitted = []
    for size in (least + 300_000, (least + most) // 2 + 300_000, 10 * most):
        options = ["--dry-run", "--target-size", str(size)]
        found = json.loads(run("build", folder, *options, "--json").stdout)
        assert found["goal"] == {"max_kl": None, "target_bytes": size}
        assert found["smallest"]["engine_bytes"] == least
        assert found["largest"]["engine_bytes"] < size
        fitted.append(found["largest"]["engine_bytes"])
        shown = run("build", folder, *options).stdout
        assert f"the best engine of at most {size:,} bytes" in shown
        assert "known when the weights are measured" in shown
    assert fitted == sorted(fitted)
    assert fitted[-1] == most
    limited = run("build", folder, "--dry-run", "--weights", "int8", "--max-kl", "0.1").stdout
    assert "whether the mean KL is at most 0.1 is known when it is verified" in limited
