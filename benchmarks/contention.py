"""What decoding keeps of its speed while other programs want the same cores.

    python -m benchmarks.contention [--library NAME=PATH]…

Each program decodes in a process of its own, on as many threads as there are cores: quietly, and
beside one and two processes of the same priority that only compute. They take turns, round by
round. `--library` compares other builds of the kernels with this one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.record import keep

ROOT = Path(__file__).parents[1]
CONTEXT = 512
BUSY = (0, 1, 2)
OURS, PEER = "trtcoder", "llama.cpp Q4_0"


def decode(step: Callable[[int], object], seconds: float, most: int) -> float:
    """Return the tokens a second of decoding one sequence for so long, or ``most`` tokens."""
    for number in range(2):
        step(number)
    started, count = time.perf_counter(), 2
    while count < most and time.perf_counter() - started < seconds:
        step(count)
        count += 1
    return (count - 2) / (time.perf_counter() - started)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Let processes compute meanwhile, in this process's session and of its priority."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3 if others else 0)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(program: str, model: Path, seconds: float) -> float:
    """Decode in this process."""
    most = 1024
    if program == PEER:
        from benchmarks.cpu_llama import Bench

        bench = Bench(model, repack=False, flash=True)
        context = bench.open(1, CONTEXT + most)
        bench.fill(context, 1, CONTEXT)
        return decode(
            lambda number: bench.decode(context, [(0, CONTEXT + number)], logits=True),
            seconds, most,
        )  # fmt: skip
    from benchmarks.cpu_ours import Engine
    from benchmarks.cpu_work import Work

    engine = Engine(model, CONTEXT + most)
    return decode(
        lambda number: engine.step(Work(1, CONTEXT), number, CONTEXT + most), seconds, most
    )


def run(program: str, model: Path, seconds: float, **environment: str) -> float:
    """Decode in a new process."""
    command = [sys.executable, "-m", "benchmarks.contention", "--measure", program, str(model)]
    result = subprocess.run(
        [*command, "--seconds", str(seconds)], check=True, capture_output=True, text=True,
        cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip
    return float(result.stdout.split()[-1])


def programs(layers: int, libraries: tuple[str, ...], peer: bool) -> dict[str, Any]:
    """Return what takes turns, by name: a function of the seconds to decode."""
    from benchmarks.cpu_models import Models

    models = Models(layers)
    engine = models.engine()
    found: dict[str, Any] = {OURS: lambda seconds: run(OURS, engine, seconds)}
    for each in libraries:
        name, _, path = each.partition("=")
        found[name] = lambda seconds, path=path: run(OURS, engine, seconds, TRTCODER_KERNELS=path)
    if peer:
        model = models.gguf("Q4_0")
        found[PEER] = lambda seconds: run(PEER, model, seconds)
    return found


@click.command()
@click.option("--measure", "measured", nargs=2, type=(str, Path), hidden=True)
@click.option("--layers", default=6, show_default=True, help="Layers of the Lite.")
@click.option("--rounds", default=3, show_default=True, help="Turns of every program.")
@click.option("--seconds", default=4.0, show_default=True, help="Of decoding in a turn.")
@click.option("--library", "libraries", multiple=True, help="NAME=PATH of another build.")
@click.option("--no-peer", is_flag=True, help="Without llama.cpp.")
@click.option("--no-keep", is_flag=True, help="Do not write the result.")
def main(
    measured: tuple[str, Path] | None, layers: int, rounds: int, seconds: float,
    libraries: tuple[str, ...], no_peer: bool, no_keep: bool,
) -> None:  # fmt: skip
    """Measure and print a table, then one JSON line."""
    if measured is not None:
        print(measure(*measured, seconds))
        return
    chosen = programs(layers, libraries, not no_peer)
    found: dict[str, dict[str, list[float]]] = {
        name: {str(count): [] for count in BUSY} for name in chosen
    }
    for _ in range(rounds):
        for count in BUSY:
            for name, program in chosen.items():
                with busy(count):
                    found[name][str(count)].append(program(seconds))
    click.echo(f"{'decode at 512, tokens/s':<32}" + "".join(f"{n:>3} busy" for n in BUSY))
    medians = {
        name: {count: round(statistics.median(values), 2) for count, values in rows.items()}
        for name, rows in found.items()
    }
    for name, rows in medians.items():
        click.echo(f"{name:<32}" + "".join(f"{value:>8.1f}" for value in rows.values()))
    result = {"layers": layers, "rounds": rounds, "context": CONTEXT, "tokens_per_second": medians}
    if no_keep:
        click.echo(json.dumps(result))
    else:
        keep("contention", result)


if __name__ == "__main__":
    main()
