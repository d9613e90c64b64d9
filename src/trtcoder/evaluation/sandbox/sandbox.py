"""The judge's side: programs go in, what became of them comes out."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.sandbox.cell import NO_MEANS

_HERE = Path(__file__).parent
# Of what a program printed: what is kept for comparing, and of a complaint.
_PRINTED, _COMPLAINT = 1 << 20, 4096
_LINE = 200
_RECURSION = 50_000
# Libraries, and where Debian's alternatives lead.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/alternatives", "/etc/ld.so.cache")

Status = Literal["passed", "failed", "out of time", "out of memory"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may take.

    Attributes:
        cpu_seconds: of a process; a slow or busy machine does not count.
        wall_seconds: after which it is ended, whatever it does.
        memory_bytes: of address space, a process.
        file_bytes, files_bytes: of one file, and of all.
        open_files: at a time.
        processes: at a time, and threads; in a cell alone.
    """

    cpu_seconds: int = 10
    wall_seconds: int = 60
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    files_bytes: int = 64 << 20
    open_files: int = 64
    processes: int | None = 8


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a program.

    Attributes:
        status: ``passed`` where it ran to its end.
        complaint: the last line that it left on standard error.
        printed: what it wrote to standard output, at most a megabyte.
    """

    status: Status
    complaint: str = ""
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "passed"


class _Running:
    """The programs that run now, to be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._is_over = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.add(process)
            if self._is_over:
                _end(process)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            for process in self._processes:
                _end(process)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Runs Python programs, each in a cell of its own; may be used by several threads.

    A cell has namespaces of its own (user, processes, mounts, network, IPC): the program sees
    read-only what Python needs and an empty folder, and no process but its own. ``trusted`` runs
    it in a temporary folder instead, within bounds of time, memory and files only.
    """

    limits: Limits = Limits()
    trusted: bool = False
    _running: _Running = field(default_factory=_Running, init=False, repr=False, compare=False)

    def stop(self) -> None:
        """End the programs that run; those that are begun later end at once."""
        self._running.end()

    def check(self) -> None:
        """Look whether programs can be run here, by running one.

        Raises:
            EvaluationError: this host has not the means, or Python does not run in a cell.
        """
        try:
            ending = self.run("import numpy" if _has("numpy") else "")
            problem = "" if ending.passed else ending.complaint or ending.status
        except (OSError, EvaluationError) as error:
            problem = str(error)
        if problem:
            raise EvaluationError(
                f"code that a model wrote cannot be shut in on this host ({problem}); allow "
                "unprivileged user namespaces (Linux 5.12 and newer), or run it unprotected with "
                "--trust-generated-code"
            )

    def run(self, source: str, stdin: str = "", *, may_exit: bool = False) -> Ending:
        """Run a program.

        Args:
            source: of the program, which is ``__main__``.
            stdin: what it reads.
            may_exit: whether ``sys.exit()`` is an end as good as any; otherwise it is a failure.

        Raises:
            EvaluationError: this host has not the means for a cell.
        """
        if os.name != "posix":
            raise EvaluationError("code that a model wrote is not run on Windows; use Linux")
        token = secrets.token_hex(16)
        order = {
            "source": source,
            "token": token,
            "may_exit": may_exit,
            "packages": _packages(),
            "recursion": _RECURSION,
        }
        with tempfile.TemporaryDirectory(prefix="trtcoder-cell-") as folder:
            desk, work = Path(folder, "desk"), Path(folder, "work")
            desk.mkdir()
            work.mkdir()
            (desk / "order").write_text(json.dumps(order), encoding="utf-8")
            (desk / "input").write_text(stdin, encoding="utf-8", errors="replace")
            status, in_time = self._start(desk, work)
            complaint = _last_line(_read(desk / "errors", _COMPLAINT))
            if status == NO_MEANS and not self.trusted:
                raise EvaluationError(f"a cell cannot be made: {complaint}")
            printed = _read(desk / "output", _PRINTED)
            told = (desk / "report").read_bytes()
        if told == token.encode():
            return Ending("passed", complaint, printed)
        return Ending(_why(status, in_time, complaint), complaint, printed)

    def _start(self, desk: Path, work: Path) -> tuple[int, bool]:
        """Run the order on a desk; return its exit status, and whether it ended by itself."""
        files = [
            (desk / "input").open("rb"),
            (desk / "output").open("wb"),
            (desk / "errors").open("wb"),
            (desk / "order").open("rb"),
            (desk / "report").open("ab"),
        ]
        try:
            numbers = [file.fileno() for file in files]
            process = subprocess.Popen(
                self._command(work, order=numbers[3], report=numbers[4]),
                stdin=numbers[0],
                stdout=numbers[1],
                stderr=numbers[2],
                pass_fds=numbers[3:],
                cwd=work,
                env=_environment(),
                start_new_session=True,
            )
        finally:
            for file in files:
                file.close()
        self._running.add(process)
        try:
            return process.wait(self.limits.wall_seconds), True
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL, False
        finally:
            self._running.remove(process)
            # What a cell has begun ends with it; what a trusted program has begun may go on.
            _end(process, also_ended=self.trusted)
            process.wait()

    def _command(self, work: Path, **descriptors: int) -> list[str]:
        limits = asdict(self.limits) | descriptors
        runner = (_HERE / "runner.py").read_text(encoding="utf-8")
        if self.trusted:
            # Those of the user's other programs would count.
            bounds = json.dumps(limits | {"processes": None})
            return [sys.executable, "-I", "-S", "-c", runner, bounds]
        order = {
            "python": os.path.realpath(sys.executable),
            "runner": runner,
            "seen": _seen(),
            "root": str(work),
            "limits": limits,
            "environment": _environment(),
        }
        return [sys.executable, "-I", "-S", str(_HERE / "cell.py"), json.dumps(order)]


def _end(process: subprocess.Popen[bytes], *, also_ended: bool = False) -> None:
    """End a program and its group, if it still runs, or where it has ended and its group may not.

    The number of a group without members may be another one's by then.
    """
    if process.returncode is None or also_ended:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _packages() -> list[str]:
    """Return the folders that hold the packages which a program may import."""
    return [sysconfig.get_paths()[name] for name in ("purelib", "platlib")]


def _seen() -> list[str]:
    """Return what Python needs: each folder or file once, and none inside of another."""
    wanted = {*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, *_packages()}
    wanted.add(str(Path(os.path.realpath(sys.executable)).parent))
    found: list[str] = []
    for path in sorted(path for path in wanted if os.path.exists(path)):
        if not any(Path(path).is_relative_to(other) for other in found):
            found.append(path)
    return found


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _read(path: Path, most: int) -> str:
    """Return the end of a file of ``most`` bytes."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        return file.read(most).decode("utf-8", "replace")


def _last_line(text: str) -> str:
    return next(reversed(list(_lines(text))), "")[:_LINE]


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())


def _why(status: int, in_time: bool, complaint: str) -> Status:
    cpu = (-signal.SIGXCPU, -signal.SIGKILL, *(256 - each for each in (24, 9)))
    if not in_time or status in cpu:
        return "out of time"
    return "out of memory" if complaint.startswith("MemoryError") else "failed"
