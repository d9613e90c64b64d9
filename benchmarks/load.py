"""Streams over real sockets, many at a time, beside llama-server on the same model and machine.

Each client sends its requests one after another. The servers take turns, round by round; the one
that waits does nothing. Every stream's text is compared with what the library answers offline.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import demo_engine, lite_checkpoint, lite_engine
from benchmarks.llama_cpp import LlamaCpp, cache, obtain
from benchmarks.record import keep, kept
from benchmarks.serving import Running, llama_serving, serving
from benchmarks.speed import DEMO, WORK

ROOT = Path(__file__).parents[1]
CLIENTS = (1, 4, 16, 64)
# Tokens of a slot of llama-server, and so of what a request may have with us.
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Pair:
    """An engine and the GGUF of the same checkpoint.

    Attributes:
        name: in the tables.
        engine: our folder.
        model: llama.cpp's file.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
    """

    name: str
    engine: Path
    model: Path
    prompt: int
    answer: int


def gguf(llama: LlamaCpp, checkpoint: Path, kind: str) -> Path:
    """Return a checkpoint's GGUF, made where it is not there; ``kind`` is llama-quantize's."""
    from benchmarks.llama_gguf import write_gguf
    from trtcoder.checkpoint.reader import Checkpoint

    name = "demo" if checkpoint == DEMO else checkpoint.name
    full, wanted = WORK / f"{name}-F32.gguf", WORK / f"{name}-{kind}.gguf"
    if not wanted.exists():
        if not full.exists():
            write_gguf(Checkpoint.open(checkpoint), full)
        if kind != "F32":
            llama.quantize(full, wanted, kind)
    return wanted


def pairs(llama: LlamaCpp, only: Sequence[str] = ()) -> Iterator[Pair]:
    """Yield what is compared, made where it is not there."""
    for name, weights, kind in (("demo, fp32", "fp32", "F32"), ("demo, int4", "int4", "Q4_0")):
        if not only or name in only:
            yield Pair(name, demo_engine(weights), gguf(llama, DEMO, kind), 128, 48)
    name = "Lite, 4 layers, int4"
    if not only or name in only:
        yield Pair(name, lite_engine(), gguf(llama, lite_checkpoint(), "Q4_0"), 64, 16)


def prompts(engine: Path, count: int, length: int) -> list[list[int]]:
    """Return the beginnings of held-out texts as token ids, of which no two are alike."""
    from trtcoder.bundle.folder import Bundle
    from trtcoder.calib.text.examples import read_built_in
    from trtcoder.prompting.prompts import Prompts

    bundle = Bundle.load(engine, verify_hashes=False)
    encode = Prompts.load(engine, bundle.manifest).completion
    text = "\n".join(each["text"] for each in read_built_in("heldout") if each["kind"] == "plain")
    ids = encode(text)
    body = ids[1:]
    # Steps of 61 tokens through the text, as often round as there are prompts to make.
    return [
        [ids[0], *(body[(61 * index + place) % len(body)] for place in range(length - 1))]
        for index in range(count)
    ]


def ask(port: int, path: str, clients: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Run clients in a process of their own; return what `load_client` prints."""
    plan = json.dumps({"port": port, "path": path, "clients": clients})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_client"],
        input=plan, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bodies(asked: list[list[int]], tokens: int) -> list[dict[str, Any]]:
    """Return the requests, which both servers understand."""
    # The last three are llama-server's: nothing of an earlier round may be found again.
    return [
        {"prompt": ids, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
         "n_predict": tokens, "cache_prompt": False, "return_tokens": False}
        for ids in asked
    ]  # fmt: skip


def figures(found: dict[str, Any], tokens: int) -> dict[str, float]:
    """Return tokens a second, time to the first token, and the gaps behind it, in ms."""
    answers = [answer for client in found["answers"] for answer in client]
    broken = [answer["error"] for answer in answers if answer["error"]]
    if broken:
        raise click.ClickException(f"{len(broken)} streams failed: {broken[0]}")
    # An answer of control tokens alone has no text.
    firsts = sorted(answer["times"][0] for answer in answers if answer["times"])
    gaps = sorted(
        later - earlier
        for answer in answers
        for earlier, later in zip(answer["times"], answer["times"][1:], strict=False)
    )
    return {
        "tokens_per_second": len(answers) * tokens / found["seconds"],
        "first_p50": 1e3 * at(firsts, 0.5),
        "first_p95": 1e3 * at(firsts, 0.95),
        "gap_p50": 1e3 * at(gaps, 0.5),
        "gap_p95": 1e3 * at(gaps, 0.95),
        "gap_p99": 1e3 * at(gaps, 0.99),
    }


def at(values: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def offline(engine: Path, asked: list[list[int]], tokens: int) -> list[str]:
    """Return what the library answers, eight prompts at a time."""
    from trtcoder import LLM, SamplingParams
    from trtcoder.runtime.engine.settings import EngineSettings

    settings = EngineSettings(prefix_cache=False, context=CONTEXT)
    with LLM(engine, settings=settings, verify_hashes=False) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        outputs = llm.generate(asked, params, progress=False)
    return [output.outputs[0].text for output in outputs]


@contextmanager
def servers(llama: LlamaCpp, pair: Pair, clients: int) -> Iterator[dict[str, Running]]:
    """Run both, each with room for all clients at the same time."""
    ours = serving(
        pair.engine, "--max-batch", str(clients), "--max-queue", "1024", "--context", str(CONTEXT),
        "--cache-tokens", str(CONTEXT * (clients + 1)), "--no-prefix-cache",
    )  # fmt: skip
    theirs = llama_serving(
        llama, pair.model, "-np", str(clients), "-c", str(CONTEXT * clients), "--cache-ram", "0"
    )
    with ours as ours_running, theirs as theirs_running:
        yield {"trtcoder": ours_running, "llama-server": theirs_running}


def measure(llama: LlamaCpp, pair: Pair, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each number of clients and server."""
    rows = []
    each_asks = {1: 4, 4: 2, 16: 1, 64: 1}
    for clients in CLIENTS:
        count = clients * each_asks[clients]
        asked = prompts(pair.engine, count, pair.prompt)
        wanted = offline(pair.engine, asked, pair.answer)
        requests = bodies(asked, pair.answer)
        plan = [requests[index::clients] for index in range(clients)]
        found: dict[str, list[dict[str, float]]] = {}
        differing = 0
        with servers(llama, pair, clients) as running:
            for index in range(rounds + 1):
                for name, server in running.items():
                    answers = ask(server.port, "/v1/completions", plan)
                    if name == "trtcoder":
                        texts = [[each["text"] for each in client] for client in answers["answers"]]
                        differing += sum(
                            text != wanted[client + clients * turn]
                            for client, turns in enumerate(texts)
                            for turn, text in enumerate(turns)
                        )
                    if index:  # the first warms up
                        found.setdefault(name, []).append(figures(answers, pair.answer))
        for name, each in found.items():
            medians = {
                key: round(statistics.median(one[key] for one in each), 2) for key in each[0]
            }
            row: dict[str, Any] = {"clients": clients, "server": name, **medians}
            if name == "trtcoder":
                row |= {"streams": count * (rounds + 1), "differing": differing}
            rows.append(row)
            click.echo(f"{pair.name:<22} {row}", err=True)
    return rows


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--only", multiple=True, help="A pair by its name; all by default.")
def main(rounds: int, only: tuple[str, ...]) -> None:
    """Measure and print a table, then one JSON line."""
    llama = obtain(cache())
    measured = {
        pair.name: {
            "prompt_tokens": pair.prompt,
            "answer_tokens": pair.answer,
            "rows": measure(llama, pair, rounds),
        }
        for pair in pairs(llama, only)
    }
    models = kept("load", "models") | measured
    keep("load", {"llama.cpp": llama.versions(), "context": CONTEXT, "models": models})


if __name__ == "__main__":
    main()
