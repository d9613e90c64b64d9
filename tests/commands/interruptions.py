"""Commands that a signal ends at a chosen point, each in a child of one process.

The process imports everything once, so that each command costs its own work only. It reads requests
as JSON lines, `[arguments, point, count, signal]`, and answers with `[status, output]`; the signal
comes when ``point`` is reached for the ``count``-th time.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

# Where a signal may come: what is called there.
POINTS = {
    "calibrating": "trtcoder.export.calibration.calibrate:Calibration.before_stage",
    "measuring": "trtcoder.export.precision.sensitivity:_forward",
    "converting": "os:pwrite",
    "noting": "trtcoder.export.weights.journal:Journal._append",
    "verifying": "trtcoder.export.parity.graph_probe:GraphProbe.run_layer",
    "syncing": "os:fsync",
    "renaming": "os:rename",
}


class Interruptions:
    """The client: runs commands of `trtcoder`, and ends them."""

    def __enter__(self) -> Self:
        # Threads of one small product wait for each other where other work is going on.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=Path(__file__).parents[2], env=environment,
        )  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def run(
        self, *arguments: str | Path, at: str | None = None, count: int = 1, signal: int = 0
    ) -> tuple[int, str]:
        """Return a command's exit status, minus the signal if that killed it, and its output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [list(map(str, arguments)), at, count, signal]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status, output = json.loads(self._process.stdout.readline())
        return status, output


def _serve() -> None:
    for module in ("cli", "export.pipeline", "export.precision.mixed"):
        importlib.import_module(f"trtcoder.{module}")
    from trtcoder.export.reference.transformers_modules import import_modules

    import_modules()
    for line in sys.stdin:
        arguments, at, count, signal = json.loads(line)
        with tempfile.TemporaryFile("w+") as output:
            child = os.fork()
            if not child:
                _run(arguments, at, count, signal, output.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            print(json.dumps([status, output.read()]), flush=True)


def _run(arguments: list[str], at: str | None, count: int, signal: int, output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    if at is not None:
        _send(POINTS[at], count, signal)
    from trtcoder.cli import main

    status = 1
    try:
        main(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _send(point: str, count: int, signal: int) -> None:
    """Let this process get the signal when the point is reached for the ``count``-th time."""
    module, _, path = point.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    call, left = getattr(owner, name), [count]

    def counted(*values: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal)
        return call(*values, **options)

    setattr(owner, name, counted)


if __name__ == "__main__":
    _serve()
