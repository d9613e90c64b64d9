"""A real server over a real socket, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


class Server:
    """A server in a process of its own, and a client."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log
        self.client = httpx.Client(base_url=address, timeout=60)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Send a body as JSON."""
        return self.client.post(path, json=body)

    def events(self, path: str, **body: Any) -> list[Any]:
        """Return the data of a stream's events, the last one without parsing it."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            data = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]

    def metric(self, name: str, label: str = "") -> float:
        """Return the value of a metric, all its labels added, or those with this value."""
        lines = self.client.get("/metrics").text.splitlines()
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(f"{name}{{") and (not label or f'"{label}"' in line)
        ]
        return sum(values)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def serve(
    folder: Path, work: Path, *options: str, engines: Sequence[Path] = ()
) -> Iterator[Server]:
    """Start `trtcoder serve` on a free port and yield it when it is ready."""
    log = work / "serve.log"
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "serve"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, str(folder), *map(str, engines), "--port", "0", "--log-format", "json",
             *options],
            stderr=file, text=True, env={**os.environ},
        )  # fmt: skip
    server = None
    try:
        server = Server(process, _address(process, log, 1 + len(engines)), log)
        yield server
    finally:
        if server is not None:
            server.client.close()
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], log: Path, count: int) -> str:
    for _ in range(1200):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
        serving = [line for line in lines if line.get("event") == "serving"]
        if len(serving) == count:
            return str(serving[-1]["address"])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()}")
