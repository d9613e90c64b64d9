"""Our application on a real Ray."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.clients.package import Package
from tests.clients.session import DEMO_ENGINE, ROOT
from tests.ports import free_ports
from tests.scale.asking import Ask, Tally, ask_all, group, offline
from tests.toy_engine import write_toy_engine

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGE = Package(
    "pip", "ray[serve]", "2.60.0", (*PROJECT["dependencies"], *EXTRAS["cpu"], *EXTRAS["serve"])
)


class Cluster:
    """A running Ray."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.address = address
        self._process = process
        self._log = log

    def run(self, **arguments: Any) -> None:
        """Deploy the application and wait for it."""
        self.tell({"run": {"insecure": True, **arguments}})

    def replicas(self) -> int:
        """Return how many replicas run."""
        return int(self.tell({"replicas": True})["replicas"])

    def tell(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(message)}\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Ray ended: {self._log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def replica_processes(self) -> list[psutil.Process]:
        """Return the processes of the replicas, the oldest first."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        found = [each for each in children if _title(each).startswith("ray::ServeReplica:")]
        named = [each for each in found if ":replicas" in _title(each)]
        return sorted(named, key=lambda each: each.create_time())


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def cluster(work: Path) -> Iterator[Cluster]:
    """Start Ray and yield it."""
    (port,), log = free_ports(1), work / "ray.log"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        # On a busy machine its processes start slowly.
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_agent_register_timeout_ms": "300000",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    # Paths of sockets have at most 107 letters, and Ray's are long.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as temporary:
        with log.open("w") as file:
            process = subprocess.Popen(
                [PACKAGE.program("python"), "-m", "tests.scale.ray_cluster", str(port), temporary],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, text=True,
            )  # fmt: skip
        started = psutil.Process(process.pid)
        try:
            running = Cluster(process, f"http://127.0.0.1:{port}", log)
            running.read()
            yield running
        finally:
            descendants = started.children(recursive=True) if started.is_running() else []
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for each in descendants:
                if each.is_running():
                    each.kill()


def run(work: Path) -> list[tuple[str, str]]:
    """Show what Ray does with our engines; return what was seen."""
    groups = [group(number, 6) for number in range(4)]
    flat = [prompt for each in groups for prompt in each]
    texts = offline(str(DEMO_ENGINE), flat)
    base = {"engines": str(DEMO_ENGINE), "cpus": 0.5, "threads": 1, "cache_tokens": 32768}
    with cluster(work) as ray:
        ray.run(**base, min_replicas=2, max_replicas=2)
        seen = [
            ("ray, prefix-aware", _by_prefix(ray, groups, texts)),
            ("ray, one replica killed", _killed(ray, flat, texts)),
        ]
        ray.run(**base, max_replicas=2, target_requests=2, upscale_seconds=1)
        seen.append(("ray, autoscaled by its queue", _scaled(ray, flat, texts)))
        toy = write_toy_engine(work / "toy")
        engines = f"{DEMO_ENGINE},{toy}"
        ray.run(engines=engines, cpus=0.5, threads=1, cache_tokens=32768)
        seen.append(("ray, two engines in one replica", _multiplexed(ray, flat, texts)))
    return seen


def _by_prefix(ray: Cluster, groups: list[list[str]], texts: dict[str, str]) -> str:
    """Ask one after another; all but the first of a group find its beginning in the cache."""
    asks = [[Ask(prompt, stream=False) for prompt in prompts] for prompts in groups]
    for each in zip(*asks, strict=True):
        for ask in each:
            asyncio.run(ask_all(ray.address, [ask]))
    flat = [ask for each in asks for ask in each]
    tally = Tally(flat, texts)
    assert not tally.lost, tally.lost[0].problem
    assert not tally.wrong
    missed = [ask for each in asks for ask in each[1:] if ask.cached < 64]
    assert not missed, f"{len(missed)} of {len(flat)} prompts went elsewhere: {missed[0]}"
    return f"{len(asks)} groups of {len(groups[0])} in turn, each found its beginning in a cache"


def _killed(ray: Cluster, prompts: list[str], texts: dict[str, str]) -> str:
    asks = [Ask(prompt, stream=number % 3 != 2) for number, prompt in enumerate(prompts)]

    def kill() -> None:
        ray.replica_processes()[0].kill()

    asyncio.run(ask_all(ray.address, asks, meanwhile=kill, after=4))
    tally = Tally(asks, texts)
    tally.refuse_losses_but_of_streams()
    for _ in range(600):
        if ray.replicas() == 2:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the replica was not replaced within a minute")
    late = [Ask(prompt) for prompt in prompts[:6]]
    asyncio.run(ask_all(ray.address, late))
    behind = Tally(late, texts)
    assert not behind.lost, behind.lost[0].problem
    assert not behind.wrong
    return (
        f"{len(asks)} at once, {len(tally.lost)} streams cut, none else lost; the replica was "
        "replaced; texts as offline"
    )


def _scaled(ray: Cluster, prompts: list[str], texts: dict[str, str]) -> str:
    assert ray.replicas() == 1
    rounds = 0
    for _ in range(60):
        asks = [Ask(prompt) for prompt in prompts]
        asyncio.run(ask_all(ray.address, asks))
        tally = Tally(asks, texts)
        assert not tally.lost, tally.lost[0].problem
        assert not tally.wrong
        rounds += 1
        if ray.replicas() == 2:
            return f"1 replica became 2 under {len(prompts)} requests at once; none lost"
    raise AssertionError(f"there is one replica after {rounds} rounds")


def _multiplexed(ray: Cluster, prompts: list[str], texts: dict[str, str]) -> str:
    with httpx.Client(base_url=ray.address, timeout=60) as client:
        listed = [each["id"] for each in client.get("/v1/models").json()["data"]]
        demo, toy = listed
        for name in (demo, toy, demo):
            asks = [Ask(prompt) for prompt in prompts[:2]]
            if name == demo:
                asyncio.run(ask_all(ray.address, asks, model=name))
                tally = Tally(asks, texts)
                assert not tally.lost, tally.lost[0].problem
                assert not tally.wrong
            answer = client.post(
                "/v1/completions", json={"model": name, "prompt": "x", "max_tokens": 2}
            )
            answer.raise_for_status()
            assert answer.json()["model"] == name
    return f"{', '.join(listed)}: each answers by its name, one at a time in memory"
