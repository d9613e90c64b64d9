"""What optimum-cli's options become; `make optimum` runs optimum-cli itself."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

from trtcoder.errors import BuildError, DependencyError
from trtcoder.optimum import command

CONFIG = {"model_type": "deepseek_v2"}


def parser() -> argparse.ArgumentParser:
    """Return a parser with the names and defaults of Optimum's options."""
    made = argparse.ArgumentParser()
    made.add_argument("-m", "--model")
    made.add_argument("output", type=Path)
    for name, default in (("task", "auto"), ("dtype", None), ("variant", "default")):
        made.add_argument(f"--{name}", default=default)
    made.add_argument("--cache_dir", default="cache")
    made.add_argument("--optimize", default=None)
    made.add_argument("--batch_size", type=int, default=2)
    made.add_argument("--slim", action="store_true")
    return made


def precision(*arguments: str) -> str:
    options = parser().parse_args(["-m", "checkpoint", "out", *arguments])
    return command.precision(options, parser())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "fp32"),
        (["--task", "text-generation-with-past", "--dtype", "fp32"], "fp32"),
        (["--variant", "int4", "--cache_dir", "elsewhere"], "int4"),
    ],
)
def test_the_variant_is_the_precision(arguments: list[str], expected: str) -> None:
    assert precision(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fill-mask"], "--task fill-mask"),
        (["--dtype", "fp16"], "--dtype fp16.*--variant int8"),
        (["--variant", "int3"], "there are fp32, fp8, int8, int4, mixed"),
        (["--optimize", "O2"], "--optimize"),
        (["--batch_size", "4"], "--batch_size"),
        (["--slim"], "--slim"),
    ],
)
def test_what_an_engine_cannot_follow_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        precision(*arguments)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    options = parser().parse_args(["-m", "checkpoint", str(tmp_path)])
    with pytest.raises(BuildError, match="exists"):
        command.export(tmp_path, options, parser())


def test_only_deepseek_v2_is_taken(tmp_path: Path) -> None:
    assert command.find_checkpoint(str(tmp_path), None) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert command.find_checkpoint(str(tmp_path), None) is None
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert command.find_checkpoint(str(tmp_path), None) == tmp_path


def test_a_name_on_the_hub_is_found_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--someone--coder"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    assert command.find_checkpoint("someone/coder", str(tmp_path)) == snapshot
    assert command.find_checkpoint("someone/else", str(tmp_path)) is None


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command.PROGRAM, "/nowhere/trtcoder")
    with pytest.raises(DependencyError, match="TRTCODER: there is no program /nowhere/trtcoder"):
        command.find_program()


def test_another_transformers_asks_for_an_environment_that_verifies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(command.PROGRAM, raising=False)
    assert Path(command.find_program()).name == "trtcoder"
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.57.6")
    with pytest.raises(DependencyError, match=r"4\.57\.6 is installed.*set TRTCODER="):
        command.find_program()


def test_optimum_finds_the_extension_by_its_place() -> None:
    # Without optimum-onnx there is nothing to extend, and nothing breaks.
    found = importlib.import_module("optimum.commands.register.register_trtcoder")
    assert found.REGISTER_COMMANDS == []
