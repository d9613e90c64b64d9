"""Many requests, good and bad, by clients that behave and clients that do not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.chaos.asking import HEAD, Question, Reply, ask, exchange

# How often each kind of request comes, of a hundred.
KINDS = {
    "streamed": 50,
    "whole": 22,
    "leaves": 14,
    "malformed": 8,
    "slow reader": 3,
    "giant body": 1,
    "header bomb": 2,
}
MALFORMED = (
    b"{",
    b'{"prompt": 3.5}',
    b'{"prompt": "a", "temperature": -1}',
    b'{"prompt": "a", "max_tokens": "many"}',
    b'{"prompt": "a", "n": 100000}',
    b'{"prompt": [99999999]}',
    b'{"prompt": "a", "logit_bias": {"x": 1}}',
    b"[" * 5000,
    b"\xff\xfe\x00",
)
GIANT = 17 << 20


@dataclass(slots=True)
class Storm:
    """What came of a storm.

    Attributes:
        asked: requests by kind.
        wrong: texts that are not the offline ones, statuses that should not be.
        resident: (requests so far, resident memory of the server in KiB).
    """

    asked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resident: list[tuple[int, int]] = field(default_factory=list)

    def growth(self) -> float:
        """Return by how much resident memory grew behind the first third, as a share.

        Ends are compared by the medians of a tenth of all readings each.
        """
        sizes = [size for _, size in self.resident[len(self.resident) // 3 :]]
        few = max(1, len(sizes) // 10)
        first, last = sorted(sizes[:few]), sorted(sizes[-few:])
        return last[few // 2] / first[few // 2] - 1


async def storm(
    port: int, pid: int, known: list[Question], requests: int, *, clients: int = 16, seed: int = 0
) -> Storm:
    """Send so many requests; the kinds and their order follow from the seed."""
    result = Storm()
    rng = random.Random(seed)
    plan = iter(rng.choices(list(KINDS), list(KINDS.values()), k=requests))
    every = max(1, requests // 200)

    async def client(number: int) -> None:
        mine = random.Random(seed * 1000 + number)
        for kind in plan:
            question = mine.choice(known)
            problem = await _one(port, kind, question, mine)
            result.asked[kind] += 1
            if problem:
                result.wrong.append(f"{kind}: {problem}")
            done = result.asked.total()
            if done % every == 0:
                result.resident.append((done, resident_kib(pid)))
            if done % 5000 == 0:
                size = result.resident[-1][1] / 1024
                click.echo(f"{done:>8} requests, {size:.1f} MiB", err=True)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return result


async def _one(port: int, kind: str, question: Question, rng: random.Random) -> str | None:
    """Send one request of a kind; return what was wrong with its answer."""
    if kind in ("streamed", "whole"):
        return judged(await ask(port, question, streamed=kind == "streamed"), question, kind)
    if kind == "leaves":
        await _leave(port, question, rng)
        return None
    if kind == "malformed":
        reply = await _send(port, HEAD, rng.choice(MALFORMED), "/v1/completions")
        return None if reply.status in (400, 422) else f"status {reply.status}"
    if kind == "slow reader":
        return judged(await _slowly(port, question), question, "streamed")
    if kind == "giant body":
        reply = await _send(port, HEAD, b"x" * GIANT, question.path)
        return None if reply.status in (413, 0) else f"status {reply.status}"
    bomb = HEAD.replace(
        "host:", "bomb: " + rng.choice(["x" * 200_000, "x\r\ny: z" * 2000]) + "\r\nhost:"
    )
    reply = await _send(port, bomb, b"{}", question.path)
    return None if reply.status in (400, 431, 0) else f"status {reply.status}"


def judged(reply: Reply, question: Question, kind: str) -> str | None:
    """Return what is wrong with an answer."""
    if reply.status != 200:
        return f"status {reply.status}: {reply.body[:200]!r}"
    text = reply.text(question.path, streamed=kind == "streamed")
    return None if text == question.answer else f"{text!r}, expected {question.answer!r}"


async def _leave(port: int, question: Question, rng: random.Random) -> None:
    """Leave somewhere: in the head, in the body, before the answer, or in its middle."""
    _, writer = reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = question.request(stream=rng.random() < 0.7, max_tokens=60, n_predict=60)
    stage = rng.random()
    try:
        if stage < 0.3:
            writer.write(data[: rng.randrange(len(data))])
            await writer.drain()
            return
        writer.write(data)
        await writer.drain()
        if stage < 0.5:
            return
        for _ in range(rng.randrange(1, 6)):
            await reader.read(300)
    except ConnectionError:
        return
    finally:
        if rng.random() < 0.5:
            writer.transport.abort()  # a reset, as of a machine that is gone
        else:
            writer.close()


async def _send(port: int, head: str, body: bytes, path: str) -> Reply:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head.format(path=path, length=len(body)).encode())
        for start in range(0, len(body), 1 << 18):
            writer.write(body[start : start + (1 << 18)])
            await writer.drain()

    return await exchange(port, send)


async def _slowly(port: int, question: Question) -> Reply:
    """Ask, and read a few bytes at a time through a small window."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=256)
    writer.write(question.request(stream=True))
    data = b""
    while part := await reader.read(64):
        data += part
        await asyncio.sleep(0.002)
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
    return Reply(int(head.split(b" ", 2)[1]), b"\n".join(lines))


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0
