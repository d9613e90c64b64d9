"""What the demo model solves in each precision, beside what its certificate says it lost.

Each engine is built with its certificate and asked every suite that needs no file; each is then
paired with float32 on the same problems. The demo model is tiny: it writes next to no function that
passes HumanEval's tests, and few of its lines. So lines of *classics* carry the comparison, the
functions that it was trained on in random spellings: each is to be what was there, to the letter.
"""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import build_engine
from benchmarks.record import keep
from benchmarks.speed import WORK
from demo.recipe.classics import spell
from trtcoder.bundle.certificate import Certificate
from trtcoder.bundle.scores import Scores
from trtcoder.evaluation.comparison import compare
from trtcoder.evaluation.journal import Journal
from trtcoder.evaluation.models.engine_model import EngineModel
from trtcoder.evaluation.problem import Judge, Outcome, Problem
from trtcoder.evaluation.run import Chosen, evaluate
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Setup, Suite
from trtcoder.progress import step_progress
from trtcoder.runtime.engine.settings import EngineSettings

EXACT = "fp32"
VARIANTS: dict[str, list[str]] = {
    EXACT: ["--weights", "fp32"],
    "int8": ["--weights", "int8"],
    "int4": ["--weights", "int4"],
    "mixed 11.7 MB, gptq": ["--target-size", "11750000", "--method", "gptq"],
}
# Completion is what the demo model is best at; the needle's lengths are those it was trained on,
# and one beyond.
OPTIONS = ["--form", "complete", "--needle-lengths", "256,512,1024,2048"]


CLASSICS, AT_ONCE, CONTEXT = 1000, 16, 2048


def classics(setup: Setup) -> Iterator[Problem]:
    """Yield a line of each of many functions, to be filled in."""
    rng = random.Random(1)
    for number in range(CLASSICS):
        lines = spell(rng).code.splitlines(keepends=True)
        index = rng.choice([place for place, line in enumerate(lines) if place and line.strip()])
        middle = lines[index].rstrip("\n")
        yield Problem(
            id=str(number),
            form="fill",
            prompt="".join(lines[:index]),
            suffix="\n" + "".join(lines[index + 1 :]),
            max_tokens=64,
            stop=("\n",),
            judge=is_line(middle),
        )


def is_line(middle: str) -> Judge:
    """Return the judge of what is to be a line, spaces at its end aside."""
    return lambda answer, sandbox: Outcome(answer.rstrip() == middle.rstrip())


LINES = Suite(
    name="classics", title="Classics", forms=("fill",), load=classics, measure="exact match"
)


@click.command()
@click.option("--engine", "engines", multiple=True, help="A precision by name.  [default: all]")
@click.option("--suite", "suites", multiple=True, help="A suite by name.  [default: all]")
@click.option("--limit", type=int, help="Only the first so many problems of each suite.")
@click.option("--lines", default=CLASSICS, show_default=True, help="Lines of classics.")
def main(engines: tuple[str, ...], suites: tuple[str, ...], limit: int | None, lines: int) -> None:
    """Build, ask, pair with float32, and print a table, then one JSON line.

    What was asked before, of the same engine, is not asked again.
    """
    folder = WORK / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Scores] = {}
    rows: dict[str, Any] = {}
    for label, options in VARIANTS.items():
        if engines and label not in engines:
            continue
        name = label.replace(",", "").replace(" ", "-")
        if not (folder / name / "manifest.json").exists():
            click.echo(f"building {label}", err=True)
            build_engine(folder / name, options)
        ask(folder, name, suites, limit)
        ask_lines(folder, name, lines)
        found[label] = merged(folder / f"{name}.eval.json", folder / f"{name}.classics.json")
        certificate = Certificate.load(folder / name / "parity.json")
        rows[label] = {
            "options": options,
            "kl_mean": certificate.logits.kl_mean,
            "top1_agreement": certificate.logits.top1_agreement,
            "lost_context": certificate.lost_context,
            "quality": certificate.quality,
            "suites": {suite.suite: figures(suite) for suite in found[label].suites},
            "against_fp32": paired(found[EXACT], found[label]),
        }
    result = {"options": OPTIONS, "limit": limit, "engines": rows}
    for label, row in rows.items():
        click.echo(f"{label:22} {row['kl_mean']:.2e} {json.dumps(row['against_fp32'])}")
    keep("evaluation", result)


def ask(folder: Path, name: str, suites: tuple[str, ...], limit: int | None) -> None:
    """Run `trtcoder eval` on an engine."""
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "eval", name]
    command += [*OPTIONS, "--resume", *(["--limit", str(limit)] if limit else [])]
    for suite in suites:
        command += ["--suite", suite]
    subprocess.run(command, cwd=folder, check=True)


def ask_lines(folder: Path, name: str, count: int) -> None:
    """Ask an engine the lines of classics, and write its scores."""
    settings = EngineSettings(max_batch=AT_ONCE, context=CONTEXT)
    problems = LINES.problems(Setup(form="fill"))[:count]
    with (
        EngineModel(folder / name, settings) as model,
        Journal(folder / f"{name}.classics.jsonl", {"engine": model.digest}, resume=True) as kept,
        step_progress("filling in", len(problems)) as advance,
    ):
        scores = evaluate(model, [Chosen(LINES, problems)], Sandbox(), kept, advance)
    (folder / f"{name}.classics.json").write_text(scores.to_json(), encoding="utf-8")


def merged(*paths: Path) -> Scores:
    """Return the suites of several files as one."""
    first, *others = map(Scores.load, paths)
    more = (suite for other in others for suite in other.suites)
    return dataclasses.replace(first, suites=(*first.suites, *more))


def figures(suite: Any) -> dict[str, Any]:
    """Return the sums of one suite."""
    return {
        "asked": suite.asked,
        "passed": suite.passed,
        "interval": [round(suite.low, 4), round(suite.high, 4)],
        "measures": suite.measures,
    }


def paired(exact: Scores, other: Scores) -> dict[str, Any]:
    """Return the flips against float32, by suite."""
    return {
        pair.suite: {
            "lost": len(pair.lost),
            "won": len(pair.won),
            "p_value": round(pair.p_value, 4),
            "verdict": pair.verdict,
        }
        for pair in compare(exact, other)
    }


if __name__ == "__main__":
    main()
