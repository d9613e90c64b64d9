"""Builds that end early, in every phase and by every signal, go on to the bytes of a fresh one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import numpy as np
import pytest

from tests.commands.interruptions import Interruptions
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

QUICK = ["--tokens", "60", "--calibration-tokens", "100", "--min-expert-tokens", "4"]
RTN: list[str] = []
GPTQ = ["--method", "gptq"]
# So near to what the first choice costs this checkpoint that there is a second round.
MIXED = ["--max-kl", "0.00037"]
FLOAT8 = ["--target", "tensorrt-llm"]
FLOAT4 = ["--target", "tensorrt-llm", "--weights", "nvfp4"]
PACKED = ["--target", "compressed-tensors", "--method", "gptq"]
Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def trtcoder() -> Iterator[Interruptions]:
    with Interruptions() as commands:
        yield commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interrupted")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    config = tiny_config(
        moe_intermediate_size=128, kv_lora_rank=128, num_hidden_layers=2, n_routed_experts=8
    )
    return write_random_checkpoint(folder / "checkpoint", config)


@pytest.fixture(scope="module")
def fresh(trtcoder: Interruptions, folder: Path, checkpoint: Path) -> Callable[..., Contents]:
    """Return what a build that nothing ends makes of a checkpoint, by its options."""

    @cache
    def built(*options: str, of: Path = checkpoint) -> Contents:
        out = folder / "fresh" / "".join([of.name, *options])
        status, output = trtcoder.run("build", of, "--out", out, *QUICK, *options)
        assert status == 0, output
        return contents(out)

    return built


def build(checkpoint: Path, folder: Path, *options: str) -> list[str | Path]:
    return ["build", checkpoint, "--out", folder / "engine", *QUICK, *options]


def contents(folder: Path) -> Contents:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "at", "count"),
    [
        (RTN, "converting", 1), (RTN, "converting", 40), (RTN, "noting", 1), (RTN, "renaming", 1),
        (GPTQ, "calibrating", 3), (GPTQ, "converting", 40), (MIXED, "verifying", 3),
        (MIXED, "verifying", 7), (FLOAT8, "converting", 40), (FLOAT8, "noting", 1),
        (FLOAT8, "renaming", 1), (FLOAT4, "calibrating", 3), (FLOAT4, "converting", 40),
        (PACKED, "calibrating", 3), (PACKED, "converting", 40),
    ],
)  # fmt: skip
def test_a_killed_build_goes_on_to_the_bytes_of_a_fresh_one(
    trtcoder: Interruptions, fresh: Callable[..., Contents], checkpoint: Path, tmp_path: Path,
    options: list[str], at: str, count: int,
) -> None:  # fmt: skip
    command = build(checkpoint, tmp_path, *options)
    status, output = trtcoder.run(*command, at=at, count=count, signal=SIGKILL)
    assert status == -SIGKILL, output
    assert not (tmp_path / "engine").exists()
    status, output = trtcoder.run(*command)
    assert status == 0, output
    if (options, count) == (MIXED, 7):  # in the second round, or when the first one is judged
        assert "measured by the interrupted build" in output
    assert contents(tmp_path / "engine") == fresh(*options)
    assert listing(tmp_path) == ["engine"]


@pytest.mark.parametrize(
    ("options", "at", "count", "signal", "goes_on"),
    [
        (RTN, "converting", 40, SIGINT, "going on with the interrupted build"),
        (RTN, "converting", 1, SIGTERM, None),
        (RTN, "verifying", 1, SIGTERM, "going on with the interrupted build"),
        (GPTQ, "calibrating", 1, SIGTERM, None),
        (GPTQ, "calibrating", 3, SIGINT, "going on with the interrupted build"),
        (MIXED, "measuring", 5, SIGINT, None),
        (MIXED, "converting", 40, SIGTERM, "using the sensitivities"),
    ],
)
def test_what_a_build_says_when_it_is_told_to_end_is_true(
    trtcoder: Interruptions, fresh: Callable[..., Contents], checkpoint: Path, tmp_path: Path,
    options: list[str], at: str, count: int, signal: int, goes_on: str | None,
) -> None:  # fmt: skip
    command = build(checkpoint, tmp_path, *options)
    status, output = trtcoder.run(*command, at=at, count=count, signal=signal)
    assert status == 128 + signal, output
    assert "Traceback" not in output
    if goes_on is None:
        assert "nothing is left" in output
        assert listing(tmp_path) == []
        return
    assert f"{tmp_path}/.engine.partial keeps " in output
    assert "the same command goes on from there" in output
    status, output = trtcoder.run(*command)
    assert status == 0, output
    assert goes_on in output
    assert contents(tmp_path / "engine") == fresh(*options)


def remove(data: Path) -> None:
    data.unlink()


def scribble(data: Path) -> None:
    data.write_bytes(np.random.default_rng(0).bytes(data.stat().st_size))


@pytest.mark.parametrize(("options", "damage"), [(RTN, remove), (RTN, scribble), (GPTQ, scribble)])
def test_data_that_changed_behind_a_kill_while_verifying_is_made_again(
    trtcoder: Interruptions, fresh: Callable[..., Contents], checkpoint: Path, tmp_path: Path,
    options: list[str], damage: Callable[[Path], None],
) -> None:  # fmt: skip
    command = build(checkpoint, tmp_path, *options)
    trtcoder.run(*command, at="verifying", signal=SIGKILL)
    damage(tmp_path / ".engine.partial" / "engine" / "model.data")
    status, output = trtcoder.run(*command)
    assert status == 0, output
    assert "of these steps ran again" in output
    assert contents(tmp_path / "engine") == fresh(*options)


@pytest.mark.parametrize("damage", [remove, scribble])
def test_activations_that_changed_start_a_calibrated_build_over(
    trtcoder: Interruptions, fresh: Callable[..., Contents], checkpoint: Path, tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:  # fmt: skip
    command = build(checkpoint, tmp_path, *GPTQ)
    trtcoder.run(*command, at="calibrating", count=3, signal=SIGKILL)
    for stream in (tmp_path / ".engine.partial").glob("stream.*"):
        damage(stream)
    status, output = trtcoder.run(*command)
    assert status == 0, output
    assert "of these steps ran again" in output
    assert contents(tmp_path / "engine") == fresh(*GPTQ)


def test_another_checkpoint_gets_nothing_of_the_one_that_was_interrupted(
    trtcoder: Interruptions, fresh: Callable[..., Contents], checkpoint: Path, folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    other = folder / "other"
    shutil.copytree(checkpoint, other)
    (other / "generation_config.json").unlink()
    (other / "config.json").write_text(json.dumps(tiny_config(
        moe_intermediate_size=128, kv_lora_rank=128, num_hidden_layers=2, n_routed_experts=8,
        routed_scaling_factor=2.0,
    )))  # fmt: skip
    trtcoder.run("build", checkpoint, "--out", tmp_path / "engine", *QUICK, at="verifying",
                 signal=SIGKILL)  # fmt: skip
    assert (tmp_path / ".engine.partial" / "engine" / "generation_config.json").exists()
    status, output = trtcoder.run("build", other, "--out", tmp_path / "engine", *QUICK)
    assert status == 0, output
    assert "changed since the interrupted build: config.json, generation_config.json" in output
    assert contents(tmp_path / "engine") == fresh(of=other)
    assert "generation_config.json" not in listing(tmp_path / "engine")


@pytest.mark.parametrize("before", [["--weights", "int8"], GPTQ, ["--block-size", "16"]])
def test_another_recipe_gets_nothing_of_the_one_that_was_interrupted(
    trtcoder: Interruptions, fresh: Callable[..., Contents], checkpoint: Path, tmp_path: Path,
    before: list[str],
) -> None:  # fmt: skip
    command = build(checkpoint, tmp_path)
    trtcoder.run(*command, *before, at="verifying", signal=SIGKILL)
    status, output = trtcoder.run(*command)
    assert status == 0, output
    assert "starting over: changed since the interrupted build" in output
    assert contents(tmp_path / "engine") == fresh()
    assert listing(tmp_path) == ["engine"]
