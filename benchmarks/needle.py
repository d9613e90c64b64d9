"""A needle at up to 128K tokens on a Lite's widths: the mechanics, their time and their memory.

The engine has one of a Lite's layers of experts, with random weights and an int8 cache. It cannot
find anything; what is shown is that prompts of such lengths are made, read and answered, how long
that takes and what it needs. One layer, because attention to so much takes its time: a longest
prompt twelve minutes of two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import lite_checkpoint
from benchmarks.record import keep
from benchmarks.speed import WORK, prepare
from trtcoder.bundle.scores import Scores

CACHE = "int8"
# Tokens of a haystack, and depths.
LENGTHS = {2048: 3, 8192: 3, 32768: 3, 131072: 1}


@click.command()
@click.option("--longest", default=max(LENGTHS), show_default=True, help="Tokens of a haystack.")
def main(longest: int) -> None:
    """Ask for the needle at each length; print a line for each, then one JSON line."""
    name = f"lite-1-int4-{CACHE}-cache"
    engine = prepare(WORK / name, lite_checkpoint(1, dense=0), "int4", CACHE)
    rows = [ask(engine, *each) for each in LENGTHS.items() if each[0] <= longest]
    keep("needle", {"cache": CACHE, "rows": rows})


def ask(engine: Path, length: int, depths: int) -> dict[str, Any]:
    """Run `trtcoder eval` for one length in a process of its own."""
    out = WORK / f"needle-{length}.json"
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "eval", str(engine)]
    command += ["--suite", "needle", "--form", "complete", "--at-once", "1", "--force"]
    command += ["--needle-lengths", str(length), "--needle-depths", str(depths), "--out", str(out)]
    command += ["--picture", str(out.with_suffix(".svg"))]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"trtcoder eval of {length} tokens ended with {status}")
    seconds = time.monotonic() - start
    (suite,) = Scores.load(out).suites
    row = {
        "tokens": length,
        "asked": suite.asked,
        "answered": suite.asked - suite.refused,
        "found": suite.passed,
        "seconds": round(seconds, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }
    click.echo(
        "{tokens:7,} tokens: {answered} of {asked} answered, {seconds} s, {peak_gb} GB".format(
            **row
        )
    )
    return row


if __name__ == "__main__":
    main()
