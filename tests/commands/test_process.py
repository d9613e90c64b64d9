"""The command line as the system sees it: streams, signals, exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tests.certificates import certificate, write_engine
from tests.commands.forked import Outcome, Zygote, zygote
from tests.toy_engine import write_toy_engine
from trtcoder.errors import RequestError
from trtcoder.process import run
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

COMMANDS = (
    "--help",
    "--version",
    "build {checkpoint} --dry-run",
    "build {checkpoint} --dry-run --json",
    "inspect {engine}",
    "inspect {engine} --json",
    "doctor",
    "report {engine} --out - --force",
    "diff {engine} {engine}",
    "diff {engine} {engine} --json",
    "complete {toy} def --max-tokens 3",
    "complete {toy} def --max-tokens 3 --json",
    "fill {toy} --prefix é --max-tokens 3",
    "chat {toy} 写 --max-tokens 3",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    data = certificate()
    data["tensors"][0]["name"] = "é写\x1b[2J"
    return {
        "engine": str(write_engine(folder / "engine", data)),
        "toy": str(write_toy_engine(folder / "toy")),
        "checkpoint": str(write_random_checkpoint(folder / "checkpoint", tiny_config())),
    }


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("streams")) as found:
        yield found


def is_one_line(outcome: Outcome, status: int, message: str) -> bool:
    lines = outcome.stderr.splitlines()
    return (
        outcome.status == status
        and len(lines) == 1
        and lines[0].startswith("Error: ")
        and message in lines[0]
    )


def settled(outcome: Outcome) -> bytes:
    """Return standard output without what differs from run to run."""
    return outcome.stdout.split(b'"seed"')[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_streams_in_every_state(
    command: str, places: dict[str, str], shell: Zygote
) -> None:
    arguments = [part.format(**places) for part in command.split()]
    usual = shell.run(*arguments)
    assert usual.status == 0, usual.stderr
    assert usual.stdout
    assert "\x1b" not in usual.stdout.decode()

    full = shell.run(*arguments, stdout="full")
    assert is_one_line(full, 1, "standard output: no space is left"), full
    closed = shell.run(*arguments, stdout="closed")
    assert is_one_line(closed, 1, "standard output is closed"), closed
    broken = shell.run(*arguments, stdout="broken")
    assert (broken.status, broken.stderr) == (141, ""), broken

    plain = shell.run(*arguments, encoding="ascii")
    assert plain.status == 0 or is_one_line(plain, 1, "PYTHONIOENCODING=utf-8"), plain
    if "report" not in command:
        plain.stdout.decode("ascii")

    for stderr in ("closed", "full", "broken"):
        silent = shell.run(*arguments, stderr=stderr)
        assert (silent.status, settled(silent)) == (0, settled(usual)), stderr
    without = shell.run(*arguments, stdin=None)
    assert without.status == 0, without.stderr


@pytest.mark.parametrize("command", ["complete", "chat", "fill"])
def test_standard_input_in_every_state(command: str, places: dict[str, str], shell: Zygote) -> None:
    arguments = [command, places["toy"], *(["--prefix"] if command == "fill" else []), "-"]
    if command != "fill":  # whose texts are arguments
        closed = shell.run(*arguments, stdin=None)
        assert is_one_line(closed, 1, "standard input is closed"), closed
        garbled = shell.run(*arguments, stdin=b"def\xff")
        assert is_one_line(garbled, 1, "standard input: not UTF-8 at byte 3"), garbled
    assert shell.run(*arguments, "--max-tokens", "2", stdin="déf".encode()).status == 0


def test_an_error_has_no_place_to_go_and_the_status_says_it(
    places: dict[str, str], shell: Zygote
) -> None:
    for stderr in ("closed", "full", "broken"):
        assert shell.run("inspect", "nowhere", stderr=stderr).status == 1
        assert shell.run("inspect", stderr=stderr).status == 2


def test_a_disk_that_is_full_leaves_the_file_as_it_was(
    places: dict[str, str], shell: Zygote, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    outcome = shell.run("report", places["engine"], "--out", page, "--force", largest_file=4000)
    assert is_one_line(outcome, 1, f"{page}: cannot be written (files may not become so large")
    assert page.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [page]


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RequestError("a\nb \x1b[2J"), 1, "Error: a b \N{REPLACEMENT CHARACTER}[2J\n"),
        (FileNotFoundError(2, "x", "model.data"), 1, "Error: model.data: there is no such file"),
        (PermissionError(13, "x", b"a"), 1, "Error: a: permission is denied"),
        (OSError(28, "x"), 1, "Error: no space is left"),
        (OSError("odd"), 1, "Error: odd"),
        (MemoryError(), 1, "Error: memory is used up"),
        (RecursionError(), 1, "Error: is nested too deeply"),
        (ModuleNotFoundError("x", name="numba.core"), 1, "pip install 'trtcoder[build]'"),
        (ModuleNotFoundError("x", name="torch"), 1, "pip install 'trtcoder[verify]'"),
        (ImportError("libc.so", name="torch"), 1, "torch cannot be imported (libc.so)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), 1, "Error: is not UTF-8"),
        (click.UsageError("no"), 2, "Error: no"),
        (KeyboardInterrupt(), 130, ""),
        (click.exceptions.Abort(), 130, ""),
    ],
)  # fmt: skip
def test_what_ends_a_command_has_its_status_and_one_line(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error)) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == (1 if message else 0)


def test_a_defect_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)
    with pytest.raises(ImportError, match="absent"):
        run(raising(ImportError("absent", name="trtcoder.commands")))


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_a_command_with_the_shells_status(
    sent: signal.Signals, status: int, places: dict[str, str]
) -> None:
    # A command that waits: for standard input, before any engine is loaded.
    # One that is ignored from the start, as under nohup, stays so.
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from trtcoder.cli import main; print('ready', flush=True); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "complete", places["toy"], "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.3)  # until it has come to reading
        process.send_signal(sent)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    _, stderr = process.communicate()
    # One that arrives before the command line is ready ends it as the system does.
    assert process.returncode in (status, -sent)
    assert b"Traceback" not in stderr
    assert os.path.isdir(places["toy"])
