"""What choosing a token costs at Lite's vocabulary, a row, with everything asked for at once."""

from __future__ import annotations

import statistics
import time
from typing import Any

import click
import numpy as np

from benchmarks.record import keep
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Sampler, best_of

VOCAB, PROMPT = 102_400, 2_000
ROWS = (1, 8, 64)
GREEDY = SamplingParams(temperature=0.0)
ALL = SamplingParams(
    temperature=0.7,
    top_k=50,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.1,
    frequency_penalty=0.3,
    presence_penalty=0.2,
    logit_bias={7: 2.0, 11: -5.0, 100_000: 1.0},
    logprobs=5,
    seed=1,
)
ASKED = {
    "greedy": GREEDY,
    "temperature": SamplingParams(temperature=0.7, seed=1),
    "temperature, top-k 50": SamplingParams(temperature=0.7, top_k=50, seed=1),
    "temperature, top-p 0.9": SamplingParams(temperature=0.7, top_p=0.9, seed=1),
    "penalties and bias": SamplingParams(
        temperature=0.0,
        repetition_penalty=1.1,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias=ALL.logit_bias,
    ),
    "logprobs 5": SamplingParams(temperature=0.0, logprobs=5),
    "all together": ALL,
    "all but top-k": SamplingParams(
        temperature=0.7, top_p=0.9, min_p=0.02, repetition_penalty=1.1, frequency_penalty=0.3,
        presence_penalty=0.2, logit_bias=ALL.logit_bias, logprobs=5, seed=1,
    ),
}  # fmt: skip


def milliseconds(params: SamplingParams, rows: int, steps: int) -> float:
    """Return the median time of a row of a step; logits are made anew for each step."""
    random = np.random.default_rng(0)
    prompt = random.integers(0, VOCAB, PROMPT).tolist()
    params = params.resolved(SamplingParams())
    samplers = [Sampler(params, prompt, VOCAB, answer=row) for row in range(rows)]
    # Some tokens stand out, as they do in a model's logits.
    made = random.normal(0, 2, (rows, VOCAB)).astype(np.float32)
    made[:, :50] += np.linspace(14, 4, 50, dtype=np.float32)
    times = []
    for _ in range(steps):
        logits = made.copy()
        started = time.perf_counter()
        best = best_of(logits)
        for sampler, row, token in zip(samplers, logits, best, strict=True):
            sampler.sample(row, best=token)
        times.append((time.perf_counter() - started) / rows)
    return 1e3 * statistics.median(times)


@click.command()
def main() -> None:
    """Measure and print a table, then one JSON line."""
    found: dict[str, dict[str, Any]] = {}
    click.echo(f"{'ms a row':<26}" + "".join(f"{rows:>10} rows" for rows in ROWS))
    for name, params in ASKED.items():
        found[name] = {
            str(rows): round(milliseconds(params, rows, max(10, 200 // rows)), 3) for rows in ROWS
        }
        click.echo(f"{name:<26}" + "".join(f"{value:>15}" for value in found[name].values()))
    keep("sampler", {"vocabulary": VOCAB, "prompt_tokens": PROMPT, "ms_a_row": found})


if __name__ == "__main__":
    main()
