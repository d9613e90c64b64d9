"""The files that `trtcoder triton` writes."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.toy_engine import write_toy_engine
from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main
from trtcoder.runtime.triton import llmapi, older_names
from trtcoder.runtime.triton.settings import ModelSettings

OLDER = {"ensemble", "tensorrt_llm_bls", "preprocessing", "postprocessing"}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_toy_engine(tmp_path / "engine")


def triton(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["triton", *map(str, arguments)], catch_exceptions=False)


def write(engine: Path, out: Path, *options: str) -> Path:
    result = triton(engine, "-o", out, *options)
    assert result.exit_code == 0, result.output
    return out


def tensors(text: str, side: str) -> dict[str, tuple[str, str, bool]]:
    """Return type, dims and whether it is optional of each tensor of a configuration."""
    part = text.split(f"{side} [", 1)[1].split("\n]", 1)[0]
    line = r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([^]]*) \](, optional: true)?'
    return {
        name: (kind, dims, bool(optional)) for name, kind, dims, optional in re.findall(line, part)
    }


def test_a_repository_holds_the_engine_and_what_runs_it(engine: Path, tmp_path: Path) -> None:
    out = write(engine, tmp_path / "r", "--context", "48", "--max-batch", "2")
    assert {path.name for path in out.iterdir()} == {"tensorrt_llm", "tensorrt_llm_unary"}
    version = out / "tensorrt_llm" / "1"
    assert {path.name for path in version.iterdir()} == {"engine", "model.py", "model.yaml"}
    Bundle.load(version / "engine")  # with all hashes
    settings = ModelSettings.read(version / "model.yaml")
    assert settings == ModelSettings(context=48, max_batch=2)
    assert settings.triton_config.decoupled
    # Whoever reads the repository may be another user.
    assert out.stat().st_mode & 0o777 == 0o755


def test_every_tensor_is_declared_and_only_asked_for_is_optional(
    engine: Path, tmp_path: Path
) -> None:
    out = write(engine, tmp_path / "r", "--older-names")
    for name, inputs, outputs in (
        ("tensorrt_llm", llmapi.INPUTS, llmapi.OUTPUTS),
        ("tensorrt_llm_unary", llmapi.INPUTS, llmapi.OUTPUTS),
        ("ensemble", older_names.INPUTS, older_names.OUTPUTS),
        ("tensorrt_llm_bls", older_names.INPUTS, older_names.OUTPUTS),
    ):
        text = (out / name / "config.pbtxt").read_text()
        assert f'name: "{name}"' in text
        found = tensors(text, "input")
        assert set(found) == {each.name for each in inputs}
        assert set(tensors(text, "output")) == {each.name for each in outputs}
        required = {key for key, (_, _, optional) in found.items() if not optional}
        older = name in OLDER
        assert required == ({"text_input", "max_tokens"} if older else set())
    # What NVIDIA's configuration says of its own.
    found = tensors((out / "tensorrt_llm" / "config.pbtxt").read_text(), "input")
    assert found["sampling_param_stop"] == ("STRING", "-1", True)
    assert found["sampling_param_seed"] == ("UINT64", "1", True)
    assert found["lora_id"] == ("UINT64", "1", True)


def test_what_model_yaml_says_is_not_said_by_config_pbtxt(engine: Path, tmp_path: Path) -> None:
    # Triton would take the first, and the model's own word would not count.
    text = (write(engine, tmp_path / "r") / "tensorrt_llm" / "config.pbtxt").read_text()
    assert "max_batch_size" not in text
    assert "decoupled" not in text


def test_every_model_py_is_a_class_for_triton(engine: Path, tmp_path: Path) -> None:
    out = write(engine, tmp_path / "r", "--older-names")
    folders = sorted(path.name for path in out.iterdir())
    assert set(folders) == {"tensorrt_llm", "tensorrt_llm_unary", *OLDER}
    for folder in folders:
        tree = ast.parse((out / folder / "1" / "model.py").read_text())
        (base,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
        assert base.name == "TritonPythonModel"
        (source,) = (node for node in tree.body if isinstance(node, ast.ImportFrom))
        module = __import__(str(source.module), fromlist=["_"])
        assert hasattr(getattr(module, source.names[0].name), "execute")


def test_without_streams_there_is_no_second_model(engine: Path, tmp_path: Path) -> None:
    out = write(engine, tmp_path / "r", "--no-streams")
    assert [path.name for path in out.iterdir()] == ["tensorrt_llm"]
    path = out / "tensorrt_llm" / "1" / "model.yaml"
    assert not ModelSettings.read(path).triton_config.decoupled


def test_hard_links_outlive_the_engines_folder(engine: Path, tmp_path: Path) -> None:
    manifest = (engine / "manifest.json").stat()
    out = write(engine, tmp_path / "r")
    placed = out / "tensorrt_llm" / "1" / "engine"
    assert (placed / "manifest.json").stat().st_ino == manifest.st_ino
    shutil.rmtree(engine)
    Bundle.load(placed)


@pytest.mark.parametrize(("placing", "linked"), [("copy", False), ("symlink", True)])
def test_an_engine_can_be_copied_or_linked_to(
    engine: Path, tmp_path: Path, placing: str, linked: bool
) -> None:
    out = write(engine, tmp_path / "r", "--engine-as", placing)
    placed = out / "tensorrt_llm" / "1" / "engine" / "manifest.json"
    assert placed.is_symlink() == linked
    assert (placed.stat().st_ino == (engine / "manifest.json").stat().st_ino) == linked
    Bundle.load(placed.parent)


def test_an_engine_of_links_as_in_a_cache_of_the_hub_becomes_files(
    engine: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in engine.iterdir():
        (snapshot / path.name).symlink_to(path)
    placed = write(snapshot, tmp_path / "r") / "tensorrt_llm" / "1" / "engine"
    assert not any(path.is_symlink() for path in placed.iterdir())
    Bundle.load(placed)


def test_a_repository_is_replaced_only_where_it_is_ours(engine: Path, tmp_path: Path) -> None:
    out = write(engine, tmp_path / "r")
    refused = triton(engine, "-o", out)
    assert refused.exit_code == 1
    assert "exists; pass --force to replace it" in refused.stderr
    write(engine, out, "--force", "--max-batch", "3")
    assert ModelSettings.read(out / "tensorrt_llm" / "1" / "model.yaml").max_batch == 3
    (out / "mine").mkdir()
    refused = triton(engine, "-o", out, "--force")
    assert refused.exit_code == 1
    assert "mine was not written by `trtcoder triton`" in refused.stderr
    assert (out / "mine").is_dir()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--context", "100000"], "context is 100000; the model's context has 64 tokens"),
        (["--engine-as", "copy", "-o", "{file}/r"], "file is a file, where a folder is needed"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    engine: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    given = [option.format(file=file) for option in options]
    result = triton(engine, "-o", tmp_path / "r", *given)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_json_says_what_was_written(engine: Path, tmp_path: Path) -> None:
    result = triton(engine, "-o", tmp_path / "r", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["models"] == ["tensorrt_llm", "tensorrt_llm_unary"]
    assert set(found["engine"].values()) == {"link"}
