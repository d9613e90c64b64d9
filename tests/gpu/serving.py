"""Step 5: `trtcoder serve` under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.gpu.place import Found, Place
from tests.ports import free_ports

CLIENTS, REQUESTS, TOKENS = 16, 64, 64


def run(place: Place) -> Found:
    """Serve the Lite where step 4 made one, else the demo engine, to 16 clients at once."""
    lite = place.work / "lite"
    engine = lite if lite.exists() else place.need("demo")
    values = under_load(engine, clients=CLIENTS, requests=REQUESTS, tokens=TOKENS)
    failed = int(values["failed"])
    return Found(
        f"{engine.name}, {CLIENTS} clients: {values['tokens a second']:,.0f} tok/s, first token "
        f"{values['first token p50 s']:.2f} s p50, {values['first token p99 s']:.2f} s p99, "
        f"{failed} of {REQUESTS} failed",
        values,
        (f"{failed} requests failed",) if failed else (),
    )


def under_load(engine: Path, *, clients: int, requests: int, tokens: int) -> dict[str, float]:
    """Return what streams of completions got, from a server of its own process."""
    (port,) = free_ports(1)
    program = "from trtcoder.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(engine), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ)) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(server, address)
            start = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                found = list(pool.map(lambda n: one_stream(address, n, tokens), range(requests)))
            seconds = time.perf_counter() - start
        finally:
            server.terminate()
    good = [each for each in found if each is not None]
    firsts = [first for first, _ in good] or [float("nan")]
    return {
        "tokens a second": sum(count for _, count in good) / seconds,
        "first token p50 s": float(np.percentile(firsts, 50)),
        "first token p99 s": float(np.percentile(firsts, 99)),
        "failed": float(len(found) - len(good)),
    }


def wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    """Wait for the server; raise where it ends or takes more than five minutes."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"{address}/health/ready", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server is not ready after 300 s")


def one_stream(address: str, number: int, tokens: int) -> tuple[float, int] | None:
    """Return a stream's seconds to its first chunk, and its tokens; None where it failed."""
    body = {
        "prompt": f"def function_{number}(values):\n    total = {number}\n",
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    start, first, count = time.perf_counter(), None, 0
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                chunk: dict[str, Any] = json.loads(line[6:])
                if "error" in chunk:
                    return None
                if first is None and chunk.get("choices"):
                    first = time.perf_counter() - start
                count = (chunk.get("usage") or {}).get("completion_tokens", count)
    except OSError:
        return None
    return None if first is None else (first, count)
