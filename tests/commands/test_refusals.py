"""Every command, over every kind of file that is not what it should be: one line, no traceback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.certificates import certificate, write_certificate
from tests.toy_engine import write_toy_engine
from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

DEEP = "[" * 200_000
# What may stand where a file should be.
STATES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(b"\x00\xff\xfe\x9b" * 9),
    "another encoding": lambda path: path.write_text('{"a": "é"}', encoding="utf-16"),
    "nested absurdly": lambda path: path.write_text(DEEP),
    "nested in an object": lambda path: path.write_text('{"a":' * 100_000),
    "a number": lambda path: path.write_text("1" * 6000),
    "not a number": lambda path: path.write_text('{"format": NaN}'),
    "a list": lambda path: path.write_text("[]"),
    "an object": lambda path: path.write_text("{}"),
    "a bare format": lambda path: path.write_text('{"format": 1}'),
    "a format and rubbish": lambda path: path.write_text('{"format": 1, "graph": 3, "model": []}'),
    "the newest format alone": lambda path: path.write_text('{"format": 2, "files": null}'),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/null"),
    "what escapes": lambda path: path.write_text('{"\\u001b[2J\x1b[2J": 1}'),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine that has a certificate, and a checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    engine = write_toy_engine(folder / "engine")
    write_certificate(engine / "parity.json", certificate())
    vouch(engine, "parity.json")
    write_random_checkpoint(folder / "checkpoint", tiny_config())
    return folder


def vouch(engine: Path, name: str) -> None:
    """Have the manifest list a file as it is."""
    path = engine / "manifest.json"
    manifest = json.loads(path.read_text())
    data = (engine / name).read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest))


def run(command: str, **places: Path) -> Result:
    arguments = [part.format(**places) for part in command.split()]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def assert_one_line(result: Result) -> None:
    assert result.exit_code == 1, result.output
    *notes, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert not any("Error" in note or len(note) > 300 for note in notes), result.stderr
    assert "\x1b" not in result.output
    assert "\x9b" not in result.output
    assert not result.stdout


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "command",
    [
        "build {path} --out {out}",
        "build {path} --dry-run",
        "build {path} --dry-run --target-size 5 --json",
        "build {checkpoint} --out {out} --text {path}",
        "build {checkpoint} --dry-run --text {path}",
        "build {checkpoint} --out {out} --calibration {path} --method gptq",
        "verify {path} --reference {checkpoint}",
        "verify {engine} --reference {path}",
        "verify {engine} --reference {checkpoint} --text {path}",
        "inspect {path}",
        "inspect {path} --json",
        "report {path} --out -",
        "diff {path} {engine}",
        "diff {engine} {path} --json",
        "complete {path} def",
        "complete {path} def --json",
        "fill {path} --prefix a",
        "fill {engine} {path}:2:9",
        "chat {path} hi",
        "serve {path} --port 0",
        "triton {path} -o {out}",
    ],
)
def test_a_path_that_is_something_else(
    whole: Path, tmp_path: Path, command: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "path"
    STATES[state](path)
    places = {"engine": whole / "engine", "checkpoint": whole / "checkpoint"}
    if ".jsonl" not in command and "--calibration" in command and state == "a folder":
        return  # which it takes: a folder without text says so
    result = run(command, path=path, out=tmp_path / "out", **places)
    assert_one_line(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("option", ["--config", "--api-key-file"])
def test_a_setting_of_the_server_that_is_something_else(
    tmp_path: Path, option: str, state: str
) -> None:
    path = tmp_path / "path"
    STATES[state](path)
    result = run(f"serve {{path}} --port 0 {option} {{path}}", path=path)
    assert result.exit_code in (1, 2)
    assert "Error: " in result.stderr
    assert "\x1b" not in result.output


@pytest.mark.parametrize("vouched", [False, True], ids=["changed", "listed"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "tokenizer.json", "model.onnx"])
def test_a_file_of_an_engine_that_is_something_else(
    whole: Path, tmp_path: Path, name: str, state: str, vouched: bool
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(whole / "engine", engine)
    (engine / name).unlink()
    STATES[state](engine / name)
    if vouched:
        if name == "manifest.json" or not os.path.isfile(engine / name):
            return
        vouch(engine, name)
    commands = {
        "manifest.json": ["inspect {engine}", "report {engine} --out -", "complete {engine} a"],
        "parity.json": ["report {engine} --out -", "diff {engine} {engine}"],
        "tokenizer.json": ["complete {engine} a", "chat {engine} a"],
        "model.onnx": ["complete {engine} a", "fill {engine} --prefix a"],
    }[name]
    for command in commands:
        assert_one_line(run(command, engine=engine))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.safetensors",
    ],
)
def test_a_file_of_a_checkpoint_that_is_something_else(
    whole: Path, tmp_path: Path, name: str, state: str
) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(whole / "checkpoint", source)
    (source / name).unlink(missing_ok=True)
    STATES[state](source / name)
    # Text that no engine can serve: a checkpoint that is taken after all is not built.
    text = tmp_path / "text.jsonl"
    text.write_text("")
    result = run("build {source} --out {out} --text {text}", source=source, out=tmp_path / "o",
                 text=text)  # fmt: skip
    assert_one_line(result)


@pytest.mark.parametrize("name", ["n" * 300, "a/" * 3000, "x/../" * 900])
@pytest.mark.parametrize(
    "command",
    [
        "build {path} --dry-run",
        "build {checkpoint} --out {path}",
        "build {checkpoint} --dry-run --out {path}",
        "verify {engine} --reference {checkpoint} --report {path}",
        "report {engine} --out {path}",
        "inspect {path}",
        "diff {path} {path}",
        "complete {path} a",
        "fill {engine} {path}:1:1",
    ],
)
def test_a_name_that_cannot_be(whole: Path, tmp_path: Path, command: str, name: str) -> None:
    places = {"engine": whole / "engine", "checkpoint": whole / "checkpoint"}
    assert_one_line(run(command, path=tmp_path / name, **places))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/engine", "is a file, where a folder is needed"),
        ("file", "exists; pass --force"),
        ("folder", "exists; pass --force"),
        ("link", "exists; pass --force"),
        ("/proc/engine", "/proc"),
        ("/", "is no name for an engine's folder"),
    ],
)
@pytest.mark.parametrize("options", ["", " --dry-run"])
def test_an_engine_that_cannot_be_written_is_refused_before_the_work(
    whole: Path, tmp_path: Path, out: str, message: str, options: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    command = "build {checkpoint} --out {path}" + options
    result = run(command, checkpoint=whole / "checkpoint", path=tmp_path / out)
    assert_one_line(result)
    assert message in result.stderr
