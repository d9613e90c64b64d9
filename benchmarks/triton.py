"""What a token costs inside Triton, beside the engine's own loop: streams over gRPC and HTTP.

Every way decodes the same number of tokens greedily; the ways take turns, so that what else the
machine does falls on all of them alike. The clients run on the same cores.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from benchmarks.engines import demo_engine, lite_engine
from benchmarks.overhead import BATCHES, core_rate
from benchmarks.record import keep, kept
from tests.runtime.triton.server.installation import SERVER, install
from tests.runtime.triton.server.requests import MODEL, UNARY, request
from tests.runtime.triton.server.running import Triton, serve
from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main as trtcoder
from trtcoder.prompting.prompts import Prompts
from trtcoder.runtime.engine.runner import ModelRunner

CACHE = 4608
TURNS = 10
STREAM = "/v2/models/tensorrt_llm/generate_stream"
ASKED: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


def prompt(index: int) -> str:
    """Return a stream's text, which the engine's loop is given too."""
    return f"# {index}"


def grpc_rate(triton: Triton, older: bool, size: int, count: int) -> float:
    """Return the rate of ``size`` streams by NVIDIA's client, from their start to their ends.

    Not from the first responses, which may hold several tokens.
    """
    asked = []
    for index in range(size):
        text = prompt(index)
        if older:
            each = request(
                text, model="tensorrt_llm_bls", shape=(1, 1), max_tokens=count + 1, end_id=-1
            )
            each["inputs"]["stream"] = ["BOOL", (1, 1), [True]]
        else:
            each = request(
                text,
                streaming=True,
                stream_deltas=True,
                sampling_param_max_tokens=count + 1,
                sampling_param_ignore_eos=True,
                sampling_param_temperature=0.0,
            )
        asked.append(each)
    found = triton.ask(*asked, seconds=150)
    if any(each["error"] for each in found):
        raise click.ClickException(f"a stream failed: {found[0]['error']}")
    span = float(max(each["end"] for each in found) - min(each["start"] for each in found))
    return size * count / span


def http_rate(triton: Triton, size: int, count: int) -> float:
    """Return the same of `/generate_stream`."""
    ends = [0.0] * size

    def read(index: int) -> None:
        body = {f"sampling_param_{name}": value for name, value in ASKED.items()}
        body |= {"text_input": prompt(index), "streaming": True, "stream_deltas": True}
        body["sampling_param_max_tokens"] = count + 1
        with triton.client.stream("POST", STREAM, json=body) as response:
            for _ in response.iter_raw():
                pass
        ends[index] = time.perf_counter()

    readers = [threading.Thread(target=read, args=(index,)) for index in range(size)]
    started = time.perf_counter()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return size * count / (max(ends) - started)


def http_cancel_ms(triton: Triton) -> list[float]:
    """Return the ms from the end of a client of `/generate_stream` to the next one's first token.

    The engine computes one answer at a time: the next one has its turn when the first has ended.
    """
    found = []
    pool = ThreadPoolExecutor(1)
    for _ in range(TURNS):
        asked = {"text_input": "#", "sampling_param_ignore_eos": True, "streaming": True}
        with socket.create_connection(("127.0.0.1", triton.client.base_url.port or 0)) as leaves:
            body = json.dumps({**asked, "sampling_param_max_tokens": 4000}).encode()
            leaves.sendall(
                b"POST %s HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (STREAM.encode(), len(body), body)
            )
            triton.until("trtcoder:requests_running", 1)
            stays = pool.submit(_first_byte, triton, asked)
            triton.until("trtcoder:requests_waiting", 1)
        left = time.perf_counter()
        found.append(round(1e3 * (stays.result() - left), 1))
        triton.until("trtcoder:requests_running", 0)
    return sorted(found)


def grpc_cancel_ms(triton: Triton, model: str) -> list[float]:
    """Return the same of clients of NVIDIA's, of streams or unary calls."""
    stream = model == MODEL
    long: dict[str, Any] = {"sampling_param_ignore_eos": True, "sampling_param_max_tokens": 4000}
    leaves = request("#", model=model, stream=stream, streaming=stream, cancel_after=0, **long)
    stays = request("#", streaming=True, sampling_param_max_tokens=1)
    # The one that leaves runs and the other one waits by then.
    leaves["stays"], stays["delay"] = 2.0, 1.0
    found = []
    for _ in range(TURNS):
        left, stayed = triton.ask(leaves, stays)
        if stayed["error"] or not left["start"] < stayed["start"] < left["left"] < stayed["end"]:
            raise click.ClickException(f"the order was another one: {left}, {stayed}")
        found.append(round(1e3 * (stayed["end"] - left["left"]), 1))
    return sorted(found)


def _first_byte(triton: Triton, asked: dict[str, Any]) -> float:
    body = {**asked, "sampling_param_max_tokens": 2}
    with triton.client.stream("POST", STREAM, json=body) as response:
        parts = response.iter_raw()
        next(parts)
        found = time.perf_counter()
        for _ in parts:
            pass
    return found


def measure_rates(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rates of each number of streams, and what a token costs beside the loop."""
    bundle = Bundle.load(folder, verify_hashes=False)
    runner = ModelRunner(bundle, cache_tokens=CACHE)
    prompts = Prompts.load(bundle.folder, bundle.manifest)
    rows = []
    with serving(folder) as triton:
        for size in BATCHES:
            ways: dict[str, Callable[[], float]] = {
                "core": partial(
                    core_rate,
                    runner,
                    prompts,
                    size,
                    count,
                    lambda index: prompts.completion(prompt(index)),
                ),
                "grpc": partial(grpc_rate, triton, False, size, count),
                "http": partial(http_rate, triton, size, count),
                "older": partial(grpc_rate, triton, True, size, count),
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            for index in range(rounds + 1):
                for name, way in ways.items():
                    rate = way()
                    if index:  # the first warms up
                        found[name].append(rate)
            rates = {name: statistics.median(each) for name, each in found.items()}
            row: dict[str, Any] = {"streams": size}
            row |= {f"{name}_tokens_per_second": round(rate, 1) for name, rate in rates.items()}
            for name in ("grpc", "http", "older"):
                lost = 1 / rates[name] - 1 / rates["core"]
                row[f"{name}_token_us"] = round(1e6 * lost, 1)
            rows.append(row)
            click.echo(f"{folder.name:<14} {row}", err=True)
    return rows


def measure_cancelling(folder: Path) -> dict[str, list[float]]:
    """Return how long a cancellation takes, by way."""
    with serving(folder, "--max-batch", "1") as triton:
        return {
            "grpc_stream": grpc_cancel_ms(triton, MODEL),
            "grpc_unary": grpc_cancel_ms(triton, UNARY),
            "http_stream": http_cancel_ms(triton),
        }


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Triton]:
    """Serve an engine under all names."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        repository = Path(work, "repository")
        arguments = ["triton", str(folder), "-o", str(repository), "--older-names"]
        arguments += ["--cache-tokens", str(CACHE), "--no-prefix-cache", "--no-speculate"]
        arguments += options
        CliRunner().invoke(trtcoder, arguments, catch_exceptions=False)
        with serve(repository, Path(work, "server")) as triton:
            yield triton


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(["demo", "lite"]), help="One of the two engines.")
@click.option("--part", type=click.Choice(["rates", "cancelling"]), help="One of the two parts.")
def main(rounds: int, only: str | None, part: str | None) -> None:
    """Measure both engines and print a table, then one JSON line."""
    install()
    engines = kept("triton", "engines")
    for short, name, make, count in (
        ("demo", "demo", demo_engine, 256),
        ("lite", "Lite, 4 layers", lite_engine, 64),
    ):
        if only in (None, short):
            folder = make()
            found = engines.setdefault(name, {})
            if part != "cancelling":
                found["rows"] = measure_rates(folder, count, rounds)
            if part != "rates":
                found["cancel_ms"] = measure_cancelling(folder)
    keep("triton", {"server": SERVER[0], "engines": engines})


if __name__ == "__main__":
    main()
