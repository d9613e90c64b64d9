"""A Lite of full shape (15.7B parameters, 31 GB, random weights): made, built, verified and run.

Needs 45 GB of disk and about ten minutes. The weights are random, so the comparison with the
reference shows that it can be made at this size, not what int4 costs the real model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import click

from benchmarks.record import environment, keep
from benchmarks.speed import DECODE, PREFILL, ROOT, WORK, in_new_process

CHECKPOINT = WORK / "lite-27"
ENGINE = WORK / "lite-27-int4-b128"


def timed(*arguments: str) -> dict[str, Any]:
    """Run Python with ``arguments``; return its wall time and the largest memory it took."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{' '.join(arguments)} failed")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_rss_mb": usage.ru_maxrss // 1024,
    }


@click.command()
def main() -> None:
    """Measure each step and print one JSON line; a checkpoint that is there is used again."""
    result: dict[str, Any] = {"environment": environment(), "parameters": 15_706_484_224}
    if not CHECKPOINT.is_dir():
        result["generate"] = timed("-m", "trtcoder.random_checkpoint", str(CHECKPOINT))
    size = sum(path.stat().st_size for path in CHECKPOINT.glob("*.safetensors"))
    build = ["-c", "from trtcoder.cli import main; main()", "build", str(CHECKPOINT)]
    build += ["--out", str(ENGINE), "--block-size", "128", "--tokens", "256", "--force"]
    result["build_and_verify"] = timed(*build)
    result["run"] = in_new_process("engine", ENGINE)
    result |= {"checkpoint_gb": size / 1e9, "prefill_tokens": PREFILL, "decode_tokens": DECODE}
    keep("lite", result)


if __name__ == "__main__":
    main()
