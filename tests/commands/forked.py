"""Runs the command line in children of one process that has imported what it needs.

A child is what a shell starts, with the streams that the test gives it, without the second that
importing takes.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Stream = Literal["pipe", "closed", "full", "broken"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became visible of a run."""

    status: int
    stdout: bytes
    stderr: str


class Zygote:
    """The process that has imported all; `run` forks it."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def run(
        self,
        *arguments: str | Path,
        stdout: Stream = "pipe",
        stderr: Stream = "pipe",
        stdin: bytes | None = b"",
        encoding: str = "utf-8",
        cwd: Path | None = None,
        largest_file: int | None = None,
    ) -> Outcome:
        """Run ``trtcoder ARGUMENTS``; ``stdin`` is None where it is closed."""
        out, err, given = (self._folder / name for name in ("stdout", "stderr", "stdin"))
        given.write_bytes(stdin or b"")
        request = {
            "arguments": list(map(str, arguments)), "stdout": stdout, "stderr": stderr,
            "stdin": stdin is not None, "encoding": encoding, "cwd": str(cwd or self._folder),
            "largest_file": largest_file, "folder": str(self._folder),
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return Outcome(status, out.read_bytes(), err.read_text(encoding="utf-8"))


@contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """Start the process; ``folder`` is for its streams."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.commands.forked"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Zygote(process, folder)
    finally:
        process.communicate()


def _serve() -> None:
    import click.testing  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import onnxruntime  # noqa: F401
    import rich.progress  # noqa: F401
    import tokenizers  # noqa: F401

    import trtcoder.export.pipeline
    import trtcoder.runtime.llm

    assert trtcoder.runtime.llm
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Run the command line with the streams that were asked for, and end."""
    folder = Path(request["folder"])
    os.chdir(request["cwd"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        _lead(number, request[name], folder / name)
    given = os.open(folder / "stdin", os.O_RDONLY)
    os.dup2(given, 0)
    os.close(given)
    if not request["stdin"]:
        os.close(0)
    if request["largest_file"] is not None:
        limit = request["largest_file"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    streams = [_open(number, request["encoding"]) for number in range(3)]
    sys.stdin, sys.stdout, sys.stderr = streams
    from trtcoder.cli import main

    status = 0
    try:
        main(request["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    try:
        # As Python does when it ends, which complains of what it cannot write.
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        status = 120
    os._exit(status)


def _lead(number: int, to: Stream, file: Path) -> None:
    file.write_bytes(b"")
    if to == "broken":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        place = "/dev/full" if to == "full" else str(file)
        writer = os.open(place, os.O_WRONLY | os.O_APPEND)
    os.dup2(writer, number)
    os.close(writer)
    if to == "closed":
        os.close(number)


def _open(number: int, encoding: str) -> io.TextIOWrapper | None:
    """Return a standard stream as Python opens it; None where its number is closed."""
    try:
        os.fstat(number)
    except OSError:
        return None
    raw = open(number, "rb" if number == 0 else "wb", closefd=False)  # noqa: SIM115
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors)


if __name__ == "__main__":
    _serve()
