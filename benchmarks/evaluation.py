"""What the demo model solves in each precision, beside what its certificate says it lost.

Each engine is built with its certificate and asked every suite that needs no file; each is then
paired with float32 on the same problems. The demo model is tiny: it writes next to no function that
passes HumanEval's tests, so lines to fill in carry the comparison.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import build_engine
from benchmarks.record import keep
from benchmarks.speed import WORK
from trtcoder.bundle.certificate import Certificate
from trtcoder.bundle.scores import Scores
from trtcoder.evaluation.comparison import compare

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


@click.command()
@click.option("--only", multiple=True, help="A precision by name; others keep their figures.")
@click.option("--limit", type=int, help="Problems of each suite, for a look.")
def main(only: tuple[str, ...], limit: int | None) -> None:
    """Build, ask, pair with float32, and print a table, then one JSON line."""
    folder = WORK / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Scores] = {}
    rows: dict[str, Any] = {}
    for label, options in VARIANTS.items():
        name = label.replace(",", "").replace(" ", "-")
        seconds = 0.0
        if not (folder / name / "manifest.json").exists():
            click.echo(f"building {label}", err=True)
            build_engine(folder / name, options)
        if label in only or not (folder / f"{name}.eval.json").exists():
            seconds = ask(folder, name, limit)
        found[label] = Scores.load(folder / f"{name}.eval.json")
        certificate = Certificate.load(folder / name / "parity.json")
        rows[label] = {
            "options": options,
            "kl_mean": certificate.logits.kl_mean,
            "top1_agreement": certificate.logits.top1_agreement,
            "lost_context": certificate.lost_context,
            "quality": certificate.quality,
            "seconds": round(seconds, 1),
            "suites": {suite.suite: figures(suite) for suite in found[label].suites},
            "against_fp32": paired(found[EXACT], found[label]),
        }
    result = {"options": OPTIONS, "limit": limit, "engines": rows}
    for label, row in rows.items():
        click.echo(f"{label:22} {row['kl_mean']:.2e} {json.dumps(row['against_fp32'])}")
    keep("evaluation", result)


def ask(folder: Path, name: str, limit: int | None) -> float:
    """Run `trtcoder eval` on an engine; return the seconds that it took."""
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "eval", name]
    command += [*OPTIONS, "--force", *(["--limit", str(limit)] if limit else [])]
    started = time.monotonic()
    subprocess.run(command, cwd=folder, check=True)
    return time.monotonic() - started


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
