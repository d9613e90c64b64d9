"""Too little cache, clients who say little, and clocks that jump."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos.asking import Question, ask, is_idle, metric
from benchmarks.chaos.storm import judged
from benchmarks.serving import Running, serving

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


async def exhausted(engine: Path, known: list[Question]) -> dict[str, Any]:
    """Serve more answers at once than the cache holds: they lose blocks and come out right."""
    with serving(
        engine, "--context", "512", "--cache-tokens", "640", "--max-batch", "16", "--threads", "1"
    ) as server:
        replies = await asyncio.gather(
            *(ask(server.port, question, streamed=True) for question in known)
        )
        wrong = sum(
            judged(reply, question, "streamed") is not None
            for question, reply in zip(known, replies, strict=True)
        )
        preemptions = int(await metric(server.port, "trtcoder:preemptions_total"))
        idle = await is_idle(server.port)
    passed = not wrong and preemptions > 0 and idle
    return {"answers": len(known), "wrong": wrong, "preemptions": preemptions, "passed": passed}


async def dribbled(engine: Path, known: list[Question], count: int = 200) -> dict[str, Any]:
    """Have many send a byte a second: others are answered, and those are let go."""
    with serving(engine, "--context", "1024", "--threads", "1") as server:
        before = _descriptors(server)

        async def dribble() -> float:
            started = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                for letter in b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n" * 10:
                    writer.write(bytes([letter]))
                    await writer.drain()
                    if reader.at_eof():
                        break
                    await asyncio.sleep(1)
            except ConnectionError:
                pass
            writer.close()
            return time.monotonic() - started

        dribbling = [asyncio.create_task(dribble()) for _ in range(count)]
        await asyncio.sleep(1)
        replies = [await ask(server.port, question, streamed=True) for question in known[:20]]
        wrong = sum(
            judged(reply, question, "streamed") is not None
            for question, reply in zip(known, replies, strict=False)
        )
        longest = max(await asyncio.gather(*dribbling))
        left = _descriptors(server) - before
    passed = not wrong and longest < 60 and left <= 1
    return {"connections": count, "wrong": wrong, "longest_s": round(longest, 1), "passed": passed}


async def jumped(engine: Path, known: list[Question]) -> dict[str, Any]:
    """Move the server's wall clock a day on and back while it streams, by libfaketime."""
    if not FAKETIME.exists():
        return {"skipped": "install Debian's libfaketime", "passed": True}
    with tempfile.TemporaryDirectory() as work:
        offset = Path(work) / "offset"
        offset.write_text("+0d")
        variables = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its older name
        }
        saved = dict(os.environ)
        os.environ.update(variables)
        try:
            running = serving(engine, "--context", "1024", "--threads", "1")
            with running as server:
                os.environ.clear()
                os.environ.update(saved)
                wrong = answers = 0
                for days in ("+1d", "-1d", "+4000d", "+0d"):
                    offset.write_text(days)
                    seen = time.monotonic() + 3  # the library looks once a second
                    while time.monotonic() < seen:
                        replies = await asyncio.gather(
                            *(ask(server.port, question, streamed=True) for question in known[:8])
                        )
                        for question, reply in zip(known, replies, strict=False):
                            wrong += judged(reply, question, "streamed") is not None
                            answers += 1
                idle = await is_idle(server.port)
        finally:
            os.environ.clear()
            os.environ.update(saved)
    return {"jumps": 4, "answers": answers, "wrong": wrong, "passed": not wrong and idle}


def _descriptors(server: Running) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))
