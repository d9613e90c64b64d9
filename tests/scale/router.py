"""vLLM's router before two of our servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.clients.package import Package
from tests.clients.session import DEMO_ENGINE
from tests.ports import free_ports
from tests.runtime.server.serving import Server, serve
from tests.scale.asking import MAX_TOKENS, Ask, Tally, ask_all, group, offline

PACKAGE = Package("pip", "vllm-router", "0.1.17")
SESSION, REQUEST = "x-session-id", "x-request-id"


@contextmanager
def routed(servers: list[Server], work: Path, policy: str) -> Iterator[str]:
    """Start the router before servers and yield its address."""
    port, metrics = free_ports(2)
    command: list[object] = [
        PACKAGE.program("vllm-router"), "--policy", policy, "--port", port,
        "--prometheus-port", metrics, "--prometheus-host", "127.0.0.1",
        "--health-check-endpoint", "/health/ready", "--health-check-interval-secs", 2,
        "--health-failure-threshold", 5, "--worker-startup-check-interval", 1,
        # Prompts that share a tenth of their text go together; queues are looked at beyond eight.
        "--cache-threshold", 0.1, "--balance-abs-threshold", 16,
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


def run(work: Path) -> list[tuple[str, str]]:
    """Show what the router does with our servers; return what was seen."""
    groups = [group(number, 3) for number in range(8)]
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
    """Ask; both servers have some, and behind its first each group stays at one of them.

    The first of each group are asked at once, since a router sends what is alone to any server;
    `cache_aware` may forget where one of several that come at once went.
    """
    rows = list(zip(*groups, strict=True))
    with httpx.Client(base_url=address, timeout=120) as client:

        def ask(row: int, number: int) -> None:
            answer = client.post(
                "/v1/completions",
                json={
                    "prompt": rows[row][number],
                    "max_tokens": 2 if row else MAX_TOKENS,
                    "ignore_eos": True,
                    "model": "default",
                },
                headers={SESSION: f"{policy}-{number}", REQUEST: f"{policy}-{number}-{row}"},
            )
            answer.raise_for_status()

        with ThreadPoolExecutor(len(groups)) as pool:
            list(pool.map(ask, [0] * len(groups), range(len(groups))))
        for row in range(1, len(rows)):
            for number in range(len(groups)):
                ask(row, number)
    places = [
        {
            number
            for number, server in enumerate(servers)
            if _answered(server, {f"{policy}-{each}-{row}" for row in range(1, len(rows))})
        }
        for each in range(len(groups))
    ]
    assert all(len(at) == 1 for at in places), f"a group went to both servers: {places}"
    first = {f"{policy}-{each}-0" for each in range(len(groups))}
    assert all(_answered(server, first) for server in servers), "one server got all groups"
    counts = [sum(number in at for at in places) for number in range(len(servers))]
    return f"{len(groups)} groups, {counts[0]} stay at one server, {counts[1]} at the other"


def _answered(server: Server, ids: set[str]) -> bool:
    """Return whether the log of a server has one of these requests."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    return any(line.get("id") in ids for line in lines)


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
