"""A Triton server in a process of its own, and ways to ask it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_ports
from tests.runtime.triton.server.installation import (
    SERVER_ENVIRONMENT,
    models_python,
    server_command,
    server_environment,
)

ASKING = Path(__file__).with_name("asking.py")


class Triton:
    """A server that runs.

    Attributes:
        process: the server's.
        log: what it says.
        client: of its HTTP port.
        grpc: the address of its gRPC port.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, ports: Sequence[int]) -> None:
        http, grpc, metrics = ports
        self.process = process
        self.log = log
        self.grpc = f"127.0.0.1:{grpc}"
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=600)
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"

    def generate(self, model: str = "tensorrt_llm", **values: Any) -> httpx.Response:
        """Ask ``/generate``."""
        return self.client.post(f"/v2/models/{model}/generate", json=values)

    def stream(self, model: str = "tensorrt_llm", **values: Any) -> list[dict[str, Any]]:
        """Return the events of ``/generate_stream``."""
        path = f"/v2/models/{model}/generate_stream"
        with self.client.stream("POST", path, json=values) as response:
            lines = [line for line in response.iter_lines() if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines]

    def ask(self, *asked: dict[str, Any], seconds: float = 600) -> list[dict[str, Any]]:
        """Ask by NVIDIA's own gRPC client, all at a time; see ``asking.py``."""
        done = subprocess.run(
            [SERVER_ENVIRONMENT.python, ASKING, self.grpc],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value, all that have these labels added."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = httpx.get(self._metrics).text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(f"{name}{{") and all(label in line for label in wanted)
        )

    def until(self, name: str, value: float, **labels: str) -> None:
        """Return when a metric has a value, which it is told with a delay."""
        for _ in range(600):
            if self.metric(name, **labels) == value:
                return
            time.sleep(0.05)
        raise AssertionError(f"{name} is {self.metric(name, **labels)}, not {value}")

    def processes(self) -> list[int]:
        """Return the processes of its models."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = []
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"triton_python_backend_stub" in command:
                    found.append(int(child))
        return found


@contextlib.contextmanager
def serve(
    repository: Path, work: Path, *options: str, python: Path | None = None
) -> Iterator[Triton]:
    """Start a server on free ports and yield it when it is ready; see `start`."""
    triton = start(repository, work, *options, python=python)
    try:
        for _ in range(6000):
            if triton.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{triton.log.read_text()}")
            with contextlib.suppress(httpx.HTTPError):
                if triton.client.get("/v2/health/ready").status_code == 200:
                    break
            time.sleep(0.05)
        yield triton
    finally:
        triton.client.close()
        if triton.process.poll() is None:
            triton.process.terminate()
        try:
            triton.process.wait(60)
        except subprocess.TimeoutExpired:
            triton.process.kill()
            triton.process.wait()


def start(repository: Path, work: Path, *options: str, python: Path | None = None) -> Triton:
    """Start a server, ready or not; ``python`` is the folder with the models' Python."""
    ports = free_ports(3)
    work.mkdir(parents=True, exist_ok=True)
    log = work / "triton.log"
    command = [*server_command(), "--model-repository", str(repository)]
    for name, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{name}-address", "127.0.0.1", f"--{name}-port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *options],
            stdout=file,
            stderr=file,
            env=server_environment(python or models_python(work)),
            cwd=work,
        )
    return Triton(process, log, ports)
