"""Servers that are told to end, and servers that are killed."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.chaos.asking import Question, ask, is_idle, metric
from benchmarks.chaos.storm import judged
from benchmarks.serving import serving

CLIENTS = 16


async def terminated(
    engine: Path, known: list[Question], options: tuple[str, ...]
) -> dict[str, Any]:
    """SIGTERM under load: what was begun ends whole and right, later requests are refused."""
    outcome = {"whole": 0, "refused": 0, "wrong": 0}
    with serving(engine, *options) as server:

        async def client(number: int) -> None:
            for turn in range(1000):
                question = known[(number + turn) % len(known)]
                streamed = turn % 2 == 0
                try:
                    reply = await ask(server.port, question, streamed=streamed)
                except OSError:  # the listener is closed
                    outcome["refused"] += 1
                    return
                if reply.status in (0, 503):
                    outcome["refused"] += 1
                    return
                kind = "streamed" if streamed else "whole"
                outcome["wrong" if judged(reply, question, kind) else "whole"] += 1

        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        while outcome["whole"] + outcome["wrong"] < CLIENTS:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        code = await asyncio.to_thread(server.process.wait, 60)
    return {**outcome, "exit_code": code, "passed": not outcome["wrong"] and code in (0, 143, -15)}


async def killed(
    engine: Path, known: list[Question], options: tuple[str, ...], times: int = 4
) -> dict[str, Any]:
    """SIGKILL while prefixes are written: the next start finds nothing that is damaged."""
    wrong = found = 0
    with tempfile.TemporaryDirectory() as store:
        for turn in range(times + 1):
            with serving(engine, *options, "--prefix-store", store) as server:
                asked = [
                    asyncio.create_task(ask(server.port, question, streamed=False))
                    for question in known
                ]
                if turn < times:
                    # Some answers have ended, and their rows are on the way to the disk.
                    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.sleep(0.02 * turn)
                    server.process.kill()
                replies = await asyncio.gather(*asked, return_exceptions=True)
                for question, reply in zip(known, replies, strict=True):
                    if isinstance(reply, BaseException) or reply.status != 200:
                        wrong += turn == times
                    elif judged(reply, question, "whole"):
                        # A whole answer is right or it is not there.
                        wrong += b"}" in reply.body[-3:]
                if turn == times:
                    found = int(await metric(server.port, "trtcoder:prefix_cache_hits_total"))
                    wrong += not await is_idle(server.port)
    return {
        "kills": times,
        "wrong": wrong,
        "tokens_found": found,
        "passed": not wrong and found > 0,
    }
