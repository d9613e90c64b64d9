"""What a driver has: servers, a home of its own, and its client's programs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.package import Package
from tests.clients.script_engine import write_script_engine
from tests.runtime.server.serving import Server, serve

ROOT = Path(__file__).parents[2]
DEMO_ENGINE = ROOT / "engines" / "demo-int4"
DEMO_CHECKPOINT = ROOT / "demo" / "checkpoint"
# How the prompt of a chat ends, and of one whose last message is a tool's result.
ANSWER, AFTER_RESULT = "\n\nAssistant:", "</tool_response>\n\nAssistant:"
SCRIPTED = "deepseek-script"


class ClientError(Exception):
    """A client did not do what it was asked."""


class Session:
    """One client's run.

    Attributes:
        work: an empty folder for it.
        package: what it was installed from.
    """

    def __init__(self, work: Path, package: Package | None) -> None:
        self.work = work
        self.home = work / "home"
        self.home.mkdir()
        self._package = package
        self._logs: list[Path] = []

    @property
    def package(self) -> Package:
        """What the client was installed from.

        Raises:
            ClientError: it is a library of our own environment.
        """
        if self._package is None:
            raise ClientError("this client has no package of its own")
        return self._package

    @contextmanager
    def demo(self, *options: str) -> Iterator[Server]:
        """Serve the demo engine.

        With ``--deterministic`` its texts are those of the library, whatever else is asked: int4
        promises that for nothing less.
        """
        yield from self._serve(DEMO_ENGINE, *options)

    @contextmanager
    def scripted(self, answers: Mapping[str, str], *options: str) -> Iterator[Server]:
        """Serve an engine, SCRIPTED by name, that answers as a script says."""
        folder = write_script_engine(self.work / "engine", "Script", answers)
        yield from self._serve(folder, *options)

    def run(
        self, *command: object, cwd: Path | None = None, seconds: float = 900, **environment: str
    ) -> str:
        """Run a program of the client and return its standard output.

        Raises:
            ClientError: it ends with a status, writes a traceback, or takes too long.
        """
        basic = {"HOME": str(self.home), "TERM": "dumb", "NO_COLOR": "1", "PYTHONUTF8": "1"}
        try:
            done = subprocess.run(
                [str(each) for each in command],
                cwd=cwd or self.work,
                env={"PATH": os.environ["PATH"], **basic, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClientError(f"it took longer than {seconds} s") from error
        said = f"{done.stdout}\n{done.stderr}"
        if done.returncode or "Traceback (most recent call last)" in said:
            raise ClientError(f"it ended with {done.returncode}:\n{said[-3000:]}")
        return done.stdout

    def repository(self) -> Path:
        """Return a git repository with one file, app.py, for an agent to work on."""
        folder = self.work / "repository"
        folder.mkdir()
        (folder / "app.py").write_text("print(1)\n")
        for arguments in (
            ["init", "--quiet"],
            ["config", "user.name", "nobody"],
            ["config", "user.email", "nobody@example.org"],
            ["add", "."],
            ["commit", "--quiet", "--message", "First"],
        ):
            self.run("git", *arguments, cwd=folder)
        return folder

    def requests(self) -> list[dict[str, Any]]:
        """Return what the log of each server says of its requests."""
        lines = [line for log in self._logs for line in log.read_text().splitlines()]
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in logged if each.get("event") == "request"]

    def _serve(self, folder: Path, *options: str) -> Iterator[Server]:
        logs = self.work / f"server-{len(self._logs)}"
        logs.mkdir()
        self._logs.append(logs / "serve.log")
        with serve(folder, logs, *options) as server:
            yield server
