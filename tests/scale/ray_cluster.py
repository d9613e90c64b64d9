"""A Ray of its own on this machine, run by Ray's own environment; obeys lines of JSON.

``{"run": ARGUMENTS}`` deploys the application in place of what is there and answers when it is
ready; ``{"replicas": true}`` tells how many replicas run; the end of the input ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tests.ports import free_ports

NAME = "trtcoder"
# Ray waits seconds for its own processes to say on which ports they listen, which a busy machine
# exceeds: they are told instead.
PORTS = (
    "port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
MINUTES = 15


def main(port: int, temporary: str) -> None:
    """Serve on ``port``; Ray's files go to ``temporary``."""
    # Ray writes to standard output too, from several processes: answers get a way of their own.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        with _head(temporary):
            _serve(port, answers)


@contextmanager
def _head(temporary: str) -> Iterator[None]:
    """Start Ray and connect to it."""
    import ray

    ports = free_ports(len(PORTS))
    head = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats",
            f"--temp-dir={temporary}",
            "--object-store-memory=200000000",
            *(f"--{name}={value}" for name, value in zip(PORTS, ports, strict=True)),
        ],
        stdin=subprocess.DEVNULL, stdout=sys.stderr,
    )  # fmt: skip
    try:
        for _ in range(MINUTES * 60):
            try:
                ray.init(address=f"127.0.0.1:{ports[0]}", log_to_driver=False)
                break
            except Exception as error:  # Ray has no one class for "not yet"
                if head.poll() is not None:
                    raise
                print(f"not yet: {error}", file=sys.stderr, flush=True)
                time.sleep(1)
        yield
        ray.shutdown()
    finally:
        head.terminate()
        head.wait(timeout=60)


def _serve(port: int, answers: TextIO) -> None:
    from ray import serve
    from ray.exceptions import GetTimeoutError, RayActorError

    from trtcoder.runtime.ray.app import build

    for _ in range(MINUTES):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            break
        except (GetTimeoutError, RayActorError) as error:
            # It waits a minute for its proxy.
            print(f"not yet: {error}", file=sys.stderr, flush=True)
    _say(answers, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        if "run" in asked:
            serve.delete(NAME)
            serve.run(build(asked["run"]), name=NAME)
            _say(answers, {"running": True})
        else:
            deployments = serve.status().applications[NAME].deployments
            _say(answers, {"replicas": deployments["replicas"].replica_states.get("RUNNING", 0)})
    serve.shutdown()


def _say(answers: TextIO, value: Any) -> None:
    print(json.dumps(value), file=answers)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
