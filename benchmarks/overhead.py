"""What serving costs beside the bare engine: the session in a loop, the core, and HTTP.

Every row decodes the same number of tokens from the same prompts, greedily. The rounds of the
three take turns, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.engines import demo_engine, lite_engine
from benchmarks.record import keep, kept
from benchmarks.serving import serving
from trtcoder.bundle.folder import Bundle
from trtcoder.prompting.prompts import Prompts
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.events import Chunk, Event
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams

PROMPT = 8
BATCHES = (1, 8)


def prompt(index: int) -> list[int]:
    """Return the tokens of one of the prompts, of which no two begin alike."""
    return [10 + index] * PROMPT


def settings(size: int) -> EngineSettings:
    """Return how the core runs: a token a step and answer, and nothing found from before."""
    return EngineSettings(max_batch=size, prefix_cache=False, speculate=False)


class _Timed:
    """A session that adds up how long it runs."""

    def __init__(self, session: Any) -> None:
        self._run = session.run_with_iobinding
        self.seconds = 0.0

    def run_with_iobinding(self, binding: Any) -> None:
        """Run."""
        started = time.perf_counter()
        self._run(binding)
        self.seconds += time.perf_counter() - started


class Bare:
    """The graph without scheduler, sampler or text: batches made beforehand."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._session = _Timed(runner._session)
        runner._session = self._session

    def tokens_per_second(self, answers: list[list[int]]) -> float:
        """Return the rate of rows that decode these tokens, of the session's time alone."""
        runner, size, count = self._runner, len(answers), len(answers[0])
        blocks = -(-(PROMPT + count) // runner.block_size)
        # In turns, as the scheduler gives blocks out: ONNX Runtime's own kernels take longer the
        # higher the highest one is.
        tables = [np.arange(blocks) * size + row for row in range(size)]

        def batch(tokens: list[list[int]], start: int) -> PackedBatch:
            used = -(-(start + len(tokens[0])) // runner.block_size)
            spans = [
                Span(each, start, table[:used], 1)
                for each, table in zip(tokens, tables, strict=True)
            ]
            return PackedBatch.pack(spans, runner.block_size)

        runner.forward(batch([prompt(row) for row in range(size)], 0))
        steps = [batch([[each[k]] for each in answers], PROMPT + k) for k in range(count)]
        self._session.seconds = 0.0
        for step in steps:
            runner.forward(step)
        return size * count / self._session.seconds


def greedy(runner: ModelRunner, prompts: Prompts, size: int, count: int) -> list[list[int]]:
    """Return the tokens of the answers: which experts they take is a part of what a step costs."""
    found: list[list[int]] = [[] for _ in range(size)]

    def take(row: int, event: Event) -> None:
        if isinstance(event, Chunk) and event.token is not None:
            found[row].append(event.token)

    core = EngineCore(runner, prompts.tokenizer, settings(size))
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    for row in range(size):
        core.submit(core.prepare(Request(tuple(prompt(row)), params), partial(take, row)))
    while core.has_work:
        core.step()
    return found


def core_rate(
    runner: ModelRunner,
    prompts: Prompts,
    size: int,
    count: int,
    ask: Callable[[int], list[int]] = prompt,
) -> float:
    """Return the rate of the engine's loop in this thread: schedule, run, sample, text.

    ``ask`` gives each stream's prompt.
    """
    core = EngineCore(runner, prompts.tokenizer, settings(size))
    params = SamplingParams(temperature=0.0, max_tokens=count + 1, ignore_eos=True)
    for index in range(size):
        request = Request(tuple(ask(index)), params)
        core.submit(core.prepare(request, lambda event: None))
    while core.stats.generated_tokens < size:
        core.step()
    started, before = time.perf_counter(), core.stats.generated_tokens
    while core.has_work:
        core.step()
    return (core.stats.generated_tokens - before) / (time.perf_counter() - started)


def http_rate(port: int, size: int, count: int) -> float:
    """Return the rate of ``size`` streams from their first tokens to their ends."""
    firsts, ends = [0.0] * size, [0.0] * size

    def read(index: int) -> None:
        body = json.dumps(
            {"prompt": prompt(index), "max_tokens": count + 1, "temperature": 0, "stream": True,
             "ignore_eos": True}
        ).encode()  # fmt: skip
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            while data := connection.recv(1 << 16):
                if not firsts[index] and b"data: " in data:
                    firsts[index] = time.perf_counter()
        ends[index] = time.perf_counter()

    readers = [threading.Thread(target=read, args=(index,)) for index in range(size)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return size * count / (max(ends) - min(firsts))


def measure(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rates of each batch size: session, core, HTTP, and what each costs."""
    bundle = Bundle.load(folder, verify_hashes=False)
    runner = ModelRunner(bundle, cache_tokens=4608)
    prompts = Prompts.load(bundle.folder, bundle.manifest)
    bare = Bare(runner)
    rows = []
    options = ["--cache-tokens", "4608", "--no-prefix-cache", "--no-speculate"]
    with serving(folder, *options) as server:
        for size in BATCHES:
            answers = greedy(runner, prompts, size, count)
            ways: dict[str, Callable[[], float]] = {
                "session": partial(bare.tokens_per_second, answers),
                "core": partial(core_rate, runner, prompts, size, count),
                "http": partial(http_rate, server.port, size, count),
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            for index in range(rounds + 1):
                for name, way in ways.items():
                    rate = way()
                    if index:  # the first warms up
                        found[name].append(rate)
            rates = {name: statistics.median(each) for name, each in found.items()}
            row: dict[str, Any] = {"clients": size}
            row |= {f"{name}_tokens_per_second": round(rate, 1) for name, rate in rates.items()}
            for name in ("core", "http"):
                row[f"{name}_overhead"] = round(1 - rates[name] / rates["session"], 4)
                lost = size * (1 / rates[name] - 1 / rates["session"])
                row[f"{name}_step_us"] = round(1e6 * lost, 1)
            rows.append(row)
            click.echo(f"{folder.name:<14} {row}", err=True)
    return rows


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(["demo", "lite"]), help="One of the two engines.")
def main(rounds: int, only: str | None) -> None:
    """Measure both engines and print a table, then one JSON line."""
    engines: dict[str, Any] = {}
    if only != "lite":
        engines["demo"] = measure(demo_engine(), 512, rounds)
    if only != "demo":
        engines["Lite, 4 layers"] = measure(lite_engine(), 64, rounds)
    engines = kept("overhead", "engines") | engines
    keep("overhead", {"prompt_tokens": PROMPT, "engines": engines})


if __name__ == "__main__":
    main()
