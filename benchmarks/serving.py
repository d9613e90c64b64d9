"""Servers that benchmarks ask, each in a process of its own on a free port of loopback."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.llama_cpp import LlamaCpp, threads


@dataclass(frozen=True, slots=True)
class Running:
    """A server that takes requests.

    Attributes:
        port: of 127.0.0.1.
        process: the server.
        seconds: from its start until it was ready.
    """

    port: int
    process: subprocess.Popen[bytes]
    seconds: float


@contextmanager
def serving(engine: Path, *options: str) -> Iterator[Running]:
    """Run `trtcoder serve`."""
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "serve", str(engine)]
    with _running([*command, *options], "/health/ready") as running:
        yield running


@contextmanager
def llama_serving(llama: LlamaCpp, model: Path, *options: str) -> Iterator[Running]:
    """Run llama-server with as many threads as cores.

    Weights are not repacked: with AMX this release ends in an assertion on these models
    ("cur_backend_id != -1"), whatever the quantization.
    """
    command = [str(llama.build / "bin" / "llama-server"), "-m", str(model), "--no-repack"]
    command += ["-t", str(threads()), "-tb", str(threads()), "-fit", "off", "--no-ui"]
    with _running([*command, *options], "/health") as running:
        yield running


@contextmanager
def _running(command: Sequence[str], health: str) -> Iterator[Running]:
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=log, env={**os.environ},
        )  # fmt: skip
        try:
            while not _is_ready(port, health):
                if process.poll() is not None:
                    log.seek(0)
                    raise click.ClickException(
                        f"{command[0]} ended:\n{log.read().decode(errors='replace')[-2000:]}"
                    )
                time.sleep(0.002)
            yield Running(port, process, time.perf_counter() - started)
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
