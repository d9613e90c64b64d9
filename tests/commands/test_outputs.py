"""What commands write never costs a file that someone needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.certificates import certificate, write_certificate, write_engine
from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main
from trtcoder.errors import RequestError
from trtcoder.output_file import OutputFile, owning_engine
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

WRITERS = (
    "report {engine} --out {target}",
    "verify {engine} --reference {checkpoint} --report {target}",
    "verify {other} --reference {checkpoint} --text {text} --report {target}",
    "report {certificate} --out {target}",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    write_engine(folder / "engine", certificate())
    write_engine(folder / "other", certificate())
    write_random_checkpoint(folder / "checkpoint", tiny_config())
    write_certificate(folder / "certificate.json", certificate())
    (folder / "text.jsonl").write_text('{"kind": "plain", "text": "x = 1"}\n')
    return folder


@pytest.fixture
def places(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "places", symlinks=True)
    return tmp_path / "places"


def run(command: str, places: Path, target: str, *more: str) -> Result:
    names = {
        "engine": places / "engine",
        "other": places / "other",
        "checkpoint": places / "checkpoint",
        "certificate": places / "certificate.json",
        "text": places / "text.jsonl",
        "target": target,
    }
    arguments = [part.format(**names) for part in command.split()]
    return CliRunner().invoke(main, [*arguments, *more], catch_exceptions=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "force"])
@pytest.mark.parametrize(
    "target",
    [
        "{places}/engine/parity.json",
        "{places}/engine/manifest.json",
        "{places}/engine/model.onnx",
        "{places}/engine/../engine/./parity.json",
        "parity.json",  # in the engine's folder
        "manifest.json",
        "{places}/link.json",
        "{places}/folder/parity.json",  # a link to the folder
        "{places}/engine",
    ],
)
def test_no_command_writes_over_an_engines_files(
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    force: tuple[str, ...],
    target: str,
) -> None:
    (places / "link.json").symlink_to("engine/parity.json")
    (places / "folder").symlink_to("engine")
    before = contents(places)
    monkeypatch.chdir(places / "engine")
    result = run(command, places, target.format(places=places), *force)
    assert result.exit_code == 1
    assert "give a" in result.output
    assert contents(places) == before
    Bundle.load(places / "engine")


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("target", ["text.jsonl", "certificate.json", "there.json", "dangling"])
def test_nothing_is_written_over_without_force(places: Path, command: str, target: str) -> None:
    (places / "there.json").write_text("mine")
    (places / "dangling").symlink_to("nowhere")
    before = contents(places)
    result = run(command, places, str(places / target))
    assert result.exit_code == 1
    assert "exists; pass --force to replace it" in result.output
    assert contents(places) == before


@pytest.mark.parametrize(
    ("command", "target"),
    [
        (WRITERS[1], "checkpoint/config.json"),
        (WRITERS[1], "checkpoint/model.safetensors.index.json"),
        (WRITERS[2], "text.jsonl"),
        (WRITERS[2], "linked.jsonl"),
        (WRITERS[2], "hard.jsonl"),
        (WRITERS[3], "certificate.json"),
    ],
)
def test_what_is_read_is_not_written_over_even_with_force(
    places: Path, command: str, target: str
) -> None:
    (places / "linked.jsonl").symlink_to("text.jsonl")
    os.link(places / "text.jsonl", places / "hard.jsonl")
    before = contents(places)
    target = target if (places / target).exists() else "checkpoint/tokenizer.json"
    result = run(command, places, str(places / target), "--force")
    assert result.exit_code == 1
    assert "is read by this command" in result.output
    assert contents(places) == before


def test_default_names_are_the_engines(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places / "engine")
    before = contents(places / "engine")
    assert run("report .", places, "").exit_code == 0
    assert contents(places / "engine").keys() - before == {"engine.report.html"}
    assert "engine.report.html: exists" in run("report .", places, "").output
    Bundle.load(places / "engine")
    (places / "engine" / "engine.parity.json").write_text("mine")
    result = run("verify . --reference {checkpoint}", places, "")
    assert "engine.parity.json: exists" in result.output


def test_a_link_is_followed_and_a_second_name_is_not(places: Path) -> None:
    (places / "page.html").write_text("old")
    (places / "link.html").symlink_to("page.html")
    assert run(WRITERS[0], places, str(places / "link.html"), "--force").exit_code == 0
    assert (places / "link.html").is_symlink()
    assert (places / "page.html").read_text().startswith("<!DOCTYPE html>")
    # A second name of an engine's file becomes a file of its own.
    os.link(places / "engine" / "parity.json", places / "hard.html")
    assert run(WRITERS[3], places, str(places / "hard.html"), "--force").exit_code == 0
    assert (places / "hard.html").read_text().startswith("<!DOCTYPE html>")
    Bundle.load(places / "engine")


def test_devices_take_what_is_written(places: Path) -> None:
    assert run(WRITERS[0], places, "/dev/null").exit_code == 0
    assert run(WRITERS[0], places, "-").stdout.startswith("<!DOCTYPE html>")


def test_a_damaged_engine_keeps_its_files(places: Path) -> None:
    (places / "engine" / "model.onnx").unlink()
    assert owning_engine(places / "engine" / "model.onnx") == places / "engine"
    with pytest.raises(RequestError, match="belongs to the engine"):
        OutputFile.check(places / "engine" / "model.onnx", "--out", force=True)
    # A manifest of something else lists nothing of ours.
    (places / "manifest.json").write_text('{"files": {"there.json": 1}}')
    OutputFile.check(places / "there.json", "--out")
