"""vLLM's router before two of our servers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket

import httpx

from tests.clients.package import Package
from tests.clients.session import DEMO_ENGINE
from tests.runtime.server.serving import Server, serve
from tests.scale.asking import Ask, Tally, ask_all, group, offline

PACKAGE = Package("pip", "vllm-router", "0.1.17")
SESSION = "x-session-id"


@contextmanager
def routed(servers: list[Server], work: Path, policy: str) -> Iterator[str]:
    """Start the router before servers and yield its address."""
    port, metrics = free_port(), free_port()
    command: list[object] = [
        PACKAGE.program("vllm-router"), "--policy", policy, "--port", port,
        "--prometheus-port", metrics, "--prometheus-host", "127.0.0.1",
        "--health-check-endpoint", "/health/ready", "--health-check-interval-secs", 1,
        "--health-failure-threshold", 1, "--worker-startup-check-interval", 1,
        # Prompts that share a tenth of their text go together; queues are looked at beyond eight.
        "--cache-threshold", 0.1, "--balance-abs-threshold", 8,
        "--worker-urls", *(server.address for server in servers),
    ]  # fmt: skip
    log = work / f"router-{policy}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(each) for each in command], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"the router ended: {log.read_text()[-2000:]}")
            try:
                if httpx.get(f"{address}/v1/models", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        else:
            raise RuntimeError(f"the router did not start: {log.read_text()[-2000:]}")
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(work: Path) -> list[tuple[str, str]]:
    """Show what the router does with our servers; return what was seen."""
    groups = [group(number, 6) for number in range(4)]
    flat = [prompt for each in groups for prompt in each]
    texts = offline(str(DEMO_ENGINE), flat)
    seen = []
    with ExitStack() as stack:
        servers = []
        for number in range(2):
            folder = work / f"server-{number}"
            folder.mkdir()
            options = ("--threads", "1", "--cache-tokens", "32768")
            servers.append(stack.enter_context(serve(DEMO_ENGINE, folder, *options)))
        for policy in ("cache_aware", "consistent_hash"):
            with routed(servers, work, policy) as address:
                seen.append((f"router, {policy}", _by_prefix(servers, address, policy, groups)))
        with routed(servers, work, "cache_aware") as address:
            seen.append(("router, one server killed", _killed(servers, address, flat, texts)))
    return seen


def _by_prefix(servers: list[Server], address: str, policy: str, groups: list[list[str]]) -> str:
    """Ask one after another; each group stays at the server that it came to first."""
    places: list[set[int]] = []
    with httpx.Client(base_url=address, timeout=60) as client:
        for number, prompts in enumerate(groups):
            at = set()
            for prompt in prompts:
                before = [server.metric("trtcoder:requests_total") for server in servers]
                answer = client.post(
                    "/v1/completions",
                    json={"prompt": prompt, "max_tokens": 2, "model": "default"},
                    headers={SESSION: f"{policy}-{number}"},
                )
                answer.raise_for_status()
                after = [server.metric("trtcoder:requests_total") for server in servers]
                (place,) = [n for n, pair in enumerate(zip(before, after, strict=True))
                            if pair[0] != pair[1]]  # fmt: skip
                at.add(place)
            places.append(at)
    assert all(len(at) == 1 for at in places), f"a group went to both servers: {places}"
    used = {place for at in places for place in at}
    return f"{len(groups)} groups of {len(groups[0])}, each at one of {len(used)} servers used"


def _killed(servers: list[Server], address: str, prompts: list[str], texts: dict[str, str]) -> str:
    asks = [Ask(prompt, stream=number % 3 != 2) for number, prompt in enumerate(prompts)]
    victim = servers[1]

    def kill() -> None:
        for _ in range(200):
            if victim.metric("trtcoder:requests_running") >= 1:
                break
            time.sleep(0.02)
        victim.process.kill()
        victim.process.wait()

    asyncio.run(ask_all(address, asks, meanwhile=kill, after=4))
    tally = Tally(asks, texts)
    tally.refuse_losses_but_of_streams()
    late = [Ask(prompt, stream=False) for prompt in prompts[:6]]
    asyncio.run(ask_all(address, late))
    behind = Tally(late, texts)
    assert not behind.lost, f"after the kill: {behind.lost[0].problem}"
    assert not behind.wrong
    return (
        f"{len(asks)} at once, {len(tally.lost)} streams cut, none else lost; "
        f"{len(late)} of {len(late)} answered afterwards; texts as offline"
    )
