"""What drafting from the prompt gains where an answer copies it, and costs where it does not.

Each answer is decoded with drafts and without, in turns, over the same graph. What the answers say
is given beforehand, all but in the first workload: random weights repeat themselves, which would
be too easy. The graph runs on it as it would on a text of its own.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.engines import demo_engine, lite_engine
from benchmarks.record import keep, kept
from benchmarks.speed import DEMO
from trtcoder.bundle.folder import Bundle
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.answer import Answer
from trtcoder.runtime.requests.events import Chunk, Event
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Sample

STREAMS = (1, 4, 16)
DEMO_NAME, LITE_NAME = "demo, int4", "Lite, 4 layers, int4"
PROMPT = 512
OWN, EDIT, OTHER, RANDOM = (
    "the model's own text",
    "the prompt's file, edited",
    "another file",
    "random tokens",
)

# A prompt, and the answer that it gets; None for the model's own.
Asked = tuple[list[int], list[int] | None]


def edited(source: str) -> str:
    """Return a file as an edit leaves it: its commonest long name is another, and lines are new."""
    names = Counter(re.findall(r"\b[a-z_]{5,}\b", source))
    name = names.most_common(1)[0][0]
    lines = re.sub(rf"\b{name}\b", f"{name}_found", source).splitlines(keepends=True)
    return "".join(
        f"# checked\n{line}" if index % 12 == 11 else line for index, line in enumerate(lines)
    )


def texts() -> list[str]:
    """Return held-out files, long ones first."""
    from trtcoder.calib.text.examples import read_built_in

    found = [each["text"] for each in read_built_in("heldout") if each["kind"] == "plain"]
    return sorted(found, key=len, reverse=True)


def workloads(count: int, tokens: int) -> Iterator[tuple[str, list[Asked]]]:
    """Yield workloads of ``count`` prompts and answers of ``tokens`` tokens.

    The ids are the demo's for either engine: a random Lite knows no text.
    """
    encode = TextTokenizer.load(DEMO / "tokenizer.json").encode
    sources = texts()
    files = [encode(sources[index % len(sources)])[:PROMPT] for index in range(count)]
    changed = [encode(edited(sources[index % len(sources)])) for index in range(count)]
    others = [encode(sources[(index + count) % len(sources)]) for index in range(count)]
    random = np.random.default_rng(0)
    noise = [random.integers(5, 4000, tokens).tolist() for _ in range(count)]
    yield OWN, [(each, None) for each in files]
    for name, answers in ((EDIT, changed), (OTHER, others), (RANDOM, noise)):
        yield (
            name,
            [(file, (answer * 4)[:tokens]) for file, answer in zip(files, answers, strict=True)],
        )


def say(answer: Answer, tokens: Sequence[int]) -> None:
    """Let an answer be ``tokens``, whatever the logits are."""
    coming = iter(tokens)
    answer.sample = lambda logits, best: Sample(next(coming))  # type: ignore[method-assign]


def decode(
    runner: ModelRunner, prompts: Prompts, asked: list[Asked], tokens: int, speculate: bool
) -> tuple[float, list[list[int]], float]:
    """Return tokens a second behind the first ones, the answers, and tokens a step and answer."""
    settings = EngineSettings(max_batch=len(asked), prefix_cache=False, speculate=speculate)
    core = EngineCore(runner, prompts.tokenizer, settings)
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    found: list[list[int]] = [[] for _ in asked]

    def take(row: int, event: Event) -> None:
        if isinstance(event, Chunk) and event.token is not None:
            found[row].append(event.token)

    for row, (prompt, answer) in enumerate(asked):
        job = core.prepare(Request(tuple(prompt), params), partial(take, row))
        if answer is not None:
            say(next(iter(job.answers.values())), answer)
        core.submit(job)
    while not all(found):
        core.step()
    started, before, steps = time.perf_counter(), core.stats.generated_tokens, core.stats.steps
    while core.has_work:
        core.step()
    count = core.stats.generated_tokens - before
    seconds = time.perf_counter() - started
    return count / seconds, found, count / (core.stats.steps - steps) / len(asked)


def measure(folder: Path, tokens: int, rounds: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rates of each workload and number of streams."""
    bundle = Bundle.load(folder, verify_hashes=False)
    runner = ModelRunner(bundle, cache_tokens=(PROMPT + tokens + 32) * max(STREAMS))
    prompts = Prompts.load(bundle.folder, bundle.manifest)
    rows = []
    for streams in counts:
        for name, asked in workloads(streams, tokens):
            rates: dict[bool, list[float]] = {False: [], True: []}
            said: dict[bool, list[list[int]]] = {}
            for index in range(rounds + 1):
                for speculate in (False, True) if index % 2 else (True, False):
                    rate, said[speculate], a_step = decode(
                        runner, prompts, asked, tokens, speculate
                    )
                    if index:  # the first warms up
                        rates[speculate].append(rate)
            gains = [new / old for old, new in zip(rates[False], rates[True], strict=True)]
            row = {
                "streams": streams,
                "workload": name,
                "without": round(statistics.median(rates[False]), 1),
                "with": round(statistics.median(rates[True]), 1),
                "gain": round(statistics.median(gains), 3),
                "gains": [round(gain, 3) for gain in sorted(gains)],
                "tokens_a_step": round(a_step, 2),
                "same": said[True] == said[False],
            }
            rows.append(row)
            click.echo(f"{folder.name:<14} {row}", err=True)
    return rows


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(["demo", "lite"]), help="One of the two engines.")
@click.option("--streams", type=int, multiple=True, help="So many only. Repeatable.")
def main(rounds: int, only: str | None, streams: tuple[int, ...]) -> None:
    """Measure both engines and print a table, then one JSON line."""
    engines = kept("speculation", "engines")
    for kind, name, tokens in (("demo", DEMO_NAME, 256), ("lite", LITE_NAME, 96)):
        if only not in (None, kind):
            continue
        counts = streams or STREAMS
        folder = demo_engine() if kind == "demo" else lite_engine()
        found = measure(folder, tokens, rounds, counts)
        rows = [row for row in engines.get(name, []) if row["streams"] not in counts]
        engines[name] = sorted(rows + found, key=lambda row: row["streams"])
    keep("speculation", {"prompt_tokens": PROMPT, "engines": engines})


if __name__ == "__main__":
    main()
