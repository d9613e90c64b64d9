"""What a reader is, and what became of reading."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.package import Package
from tests.targets.samples import Sample


class NotReadError(Exception):
    """Why a reader does not read a checkpoint here; no failure."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A program or library that reads quantized checkpoints.

    Attributes:
        name: what the table calls it.
        version: of what reads.
        check: reads a sample and returns what was compared, with a folder for its files; raises
            AssertionError or RuntimeError where it does not hold, `NotReadError` where it cannot.
        package: where it is installed; None if that is this environment.
        group: the engines that it takes, one of `tests.targets.samples.GROUPS`.
    """

    name: str
    version: str
    check: Callable[[Sample, Path], str]
    package: Package | None = None
    group: str = "checkpoints"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reader and sample; ``problem`` is None if it passed or was not run."""

    kind: str
    form: str
    reader: str
    version: str
    result: str
    problem: str | None = None


def read(reader: Reader, sample: Sample, scratch: Path) -> Outcome:
    """Let a reader read a sample."""
    told = (sample.kind, sample.form, reader.name, reader.version)
    try:
        return Outcome(*told, reader.check(sample, scratch))
    except NotReadError as reason:
        return Outcome(*told, f"not run here: {reason}")
    except Exception as error:  # whatever a reader raises is the outcome
        problem = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome(*told, "failed", problem[-1])


def run(
    package: Package,
    program: str,
    *arguments: str,
    environment: Mapping[str, str] = {},
    timeout: float = 900,
) -> Any:
    """Run a program of `tests.targets.programs` with a package's Python; return its JSON.

    Raises:
        RuntimeError: it ended with an error.
    """
    path = Path(__file__).with_name("programs") / f"{program}.py"
    done = subprocess.run(
        [package.program("python"), path, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", **environment},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:] or f"{program} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])
