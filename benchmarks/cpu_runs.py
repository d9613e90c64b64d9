"""Runs of programs that take turns: each in a process of its own, kept as soon as it is over.

A benchmark that was interrupted goes on behind the last run that was kept; one that has no time
left for a run leaves it out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
# Seconds after which a run is given up.
PATIENCE = 900


@dataclass(frozen=True, slots=True)
class Program:
    """One of those that take turns.

    Attributes:
        name: in the tables.
        command: a module and its arguments, before the names of rows.
        files: read before it runs, so that they are in memory.
        revision: of what runs; what another one measured does not count.
        environment: variables that are set for it.
    """

    name: str
    command: tuple[str, ...]
    files: tuple[Path, ...]
    revision: str
    environment: dict[str, str] = field(default_factory=dict)


class Runs:
    """What ran so far, in a file of one line a run."""

    def __init__(self, path: Path, minutes: float) -> None:
        """Read what is kept; no run begins that would not end within ``minutes``."""
        self.path = path
        self.deadline = time.monotonic() + 60 * minutes
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                found = json.loads(line)
                self.kept[found["turn"], found["program"]] = found

    def forget(self, turns: str) -> None:
        """Forget the turns whose names begin so."""
        self.kept = {key: made for key, made in self.kept.items() if not key[0].startswith(turns)}
        lines = [json.dumps(made) + "\n" for made in self.kept.values()]
        self.path.write_text("".join(lines), encoding="utf-8")

    def run(self, program: Program, turn: str, rows: Sequence[str]) -> dict[str, Any] | None:
        """Run a program, unless it is kept; ``turn`` names the round.

        Returns:
            What it measured; with the key ``failed`` where it ended otherwise. None where the time
            does not suffice, by what earlier runs of it took.
        """
        key = (turn, program.name)
        asked = {"revision": program.revision, "rows": list(rows)}
        if not asked.items() <= self.kept.get(key, {}).items():
            before = [made["seconds"] for (_, name), made in self.kept.items()
                      if name == program.name and made["rows"] == list(rows)]  # fmt: skip
            if time.monotonic() + max(before, default=0) > self.deadline:
                click.echo(f"{turn}: no time left for {program.name}", err=True)
                return None
            started = time.monotonic()
            found = self._measure(program, rows)
            seconds = round(time.monotonic() - started, 1)
            found |= {"turn": turn, "program": program.name, "seconds": seconds, **asked}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            click.echo(f"{turn}: {program.name}, {found['seconds']:.0f} s", err=True)
            self.kept[key] = found
        return self.kept[key]

    def _measure(self, program: Program, rows: Sequence[str]) -> dict[str, Any]:
        for path in program.files:
            _read(path)
        try:
            result = subprocess.run(
                [sys.executable, "-m", *program.command, *rows], capture_output=True, text=True,
                cwd=ROOT, env={**os.environ, **program.environment}, timeout=PATIENCE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"failed": f"ran longer than {PATIENCE} s"}
        if result.returncode:
            return {"failed": f"ended with {result.returncode}"}
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return found


def _read(path: Path) -> None:
    """Bring a file into the system's memory."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 24)
        while file.readinto(buffer):
            pass
