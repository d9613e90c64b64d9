"""Runs all of it against real servers, and says what held: `python -m benchmarks.chaos`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from benchmarks.chaos.asking import Question, is_idle, questions
from benchmarks.chaos.ends import killed, terminated
from benchmarks.chaos.pressure import dribbled, exhausted, jumped
from benchmarks.chaos.storm import storm
from benchmarks.engines import demo_engine
from benchmarks.record import keep
from benchmarks.serving import serving

# Resident memory may grow by so much behind the warm-up.
FLAT = 0.02
# One thread computes: this is no measure of speed, and clients need the other cores.
OPTIONS = (
    "--context", "1024", "--cache-tokens", "4096", "--max-batch", "16", "--max-queue", "256",
    "--threads", "1",
)  # fmt: skip


async def stormed(known: list[Question], requests: int) -> dict[str, Any]:
    """Send ``requests``, good and bad, to a server whose cache holds a part of the prompts."""
    with serving(demo_engine(), *OPTIONS, "--cache-tokens", "2048") as server:
        found = await storm(server.port, server.process.pid, known, requests)
        idle = await is_idle(server.port)
        alive = server.process.poll() is None
    growth = found.growth()
    for problem in found.wrong[:5]:
        click.echo(problem, err=True)
    return {
        "requests": dict(found.asked),
        "wrong": len(found.wrong),
        "all_blocks_free": idle,
        "resident_mib": round(found.resident[-1][1] / 1024, 1),
        "growth": round(growth, 4),
        "passed": alive and idle and not found.wrong and growth < FLAT,
    }


async def everything(requests: int) -> dict[str, dict[str, Any]]:
    """Return the outcome of each part, by its name."""
    engine = demo_engine()
    known = await asyncio.to_thread(lambda: questions(demo_engine(), length=40))
    long = await asyncio.to_thread(lambda: questions(engine, tokens=48, count=8))
    parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "cache exhausted": lambda: exhausted(engine, long),
        "SIGTERM under load": lambda: terminated(engine, long, OPTIONS),
        "SIGKILL and restart": lambda: killed(engine, long, OPTIONS),
        "a byte a second": lambda: dribbled(engine, long),
        "clock jumps": lambda: jumped(engine, long),
        "storm": lambda: stormed(known, requests),
    }
    found = {}
    for name, part in parts.items():
        found[name] = await part()
        click.echo(f"{name:<22} {found[name]}", err=True)
    return found


@click.command()
@click.option("--requests", default=100_000, show_default=True, help="5000 take two minutes.")
@click.option("--no-keep", is_flag=True, help="Leave the kept result as it is.")
def main(requests: int, no_keep: bool) -> None:
    """Run, print a line a part, and fail where one did not hold."""
    found = asyncio.run(everything(requests))
    if not no_keep:
        keep("chaos", {"parts": found})
    failed = [name for name, outcome in found.items() if not outcome["passed"]]
    if failed:
        raise click.ClickException(f"did not hold: {', '.join(failed)}")


if __name__ == "__main__":
    main()
