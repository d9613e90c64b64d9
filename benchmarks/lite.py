"""A Lite of full shape (15.7B parameters, 31 GB, random weights): made, built, killed, run.

Builds it to int4 as a stream, and holds the time against what this disk takes to read the input
once and to write the output once, in the same run. Then builds it again, killed with SIGKILL three
times on the way: the engine must be the same, byte for byte. At the end, the engine runs.

Needs 60 GB of disk and about half an hour. The weights are random, so the comparison with the
reference shows that it can be made at this size, not what int4 costs the real model.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.record import keep
from benchmarks.speed import DECODE, PREFILL, ROOT, WORK, in_new_process

CHECKPOINT = WORK / "lite-27"
ENGINE = WORK / "lite-27-int4-b128"
AGAIN = WORK / "lite-27-int4-b128-killed"
TOKENS = "256"
# Shares of the data that are in the journal when the build is killed.
KILLS = (0.2, 0.55, 0.9)
GOAL_SPEED, GOAL_RSS = 0.6, 4 << 30
_CHUNK = 16 << 20


def command(out: Path) -> list[str]:
    """Return the build's command line."""
    program = [sys.executable, "-c", "from trtcoder.cli import main; main()"]
    options = ["--block-size", "128", "--tokens", TOKENS, "--force", "--json"]
    return [*program, "build", str(CHECKPOINT), "--out", str(out), *options]


def forget(paths: list[Path]) -> None:
    """Take files out of the page cache, so that they are read from the disk."""
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_seconds(shards: list[Path], written: int) -> dict[str, float]:
    """Return how long it takes to read the shards once and to write ``written`` bytes once."""
    forget(shards)
    buffer = bytearray(_CHUNK)
    started = time.perf_counter()
    for shard in shards:
        with shard.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    read = time.perf_counter() - started
    target = WORK / "disk-test"
    block = os.urandom(_CHUNK)
    started = time.perf_counter()
    with target.open("wb", buffering=0) as file:
        for start in range(0, written, _CHUNK):
            file.write(block[: written - start])
        os.fdatasync(file.fileno())
    write = time.perf_counter() - started
    target.unlink()
    return {"read": round(read, 1), "write": round(write, 1)}


def build(out: Path) -> dict[str, Any]:
    """Build with a cold page cache; return what the command printed, without the tables."""
    forget(sorted(CHECKPOINT.glob("*.safetensors")))
    with subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate()
    if process.returncode:
        raise click.ClickException(f"building {out} failed")
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return {key: result[key] for key in ("bytes", "seconds", "peak_rss_bytes")} | {
        "kl_mean": result["parity"]["logits"]["kl_mean"]
    }


def kill_at(out: Path, share: float) -> float:
    """Build until ``share`` of the steps is in the journal, and kill; return that share."""
    workspace = out.parent / f".{out.name}.partial"
    steps = _count_steps()
    process = subprocess.Popen(
        command(out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    done = 0.0
    while process.poll() is None and done < share:
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            done = ((workspace / "journal.jsonl").read_bytes().count(b'"step"')) / steps
    process.send_signal(signal.SIGKILL)
    process.wait()
    return round(done, 3)


def _count_steps() -> int:
    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.export.recipe import preset
    from trtcoder.export.targets.onnxruntime import OnnxRuntime

    plan = OnnxRuntime().plan(Checkpoint.describe(CHECKPOINT), preset("int4", block_size=128))
    return len(plan.weights.steps)


def hashes(engine: Path) -> dict[str, str]:
    """Return the sha256 of each file of an engine."""
    manifest = json.loads((engine / "manifest.json").read_text(encoding="utf-8"))
    return {name: info["sha256"] for name, info in manifest["files"].items()}


@click.command()
def main() -> None:
    """Measure and print one JSON line; a checkpoint that is there is used again."""
    result: dict[str, Any] = {"parameters": 15_706_484_224}
    if not CHECKPOINT.is_dir():
        generate = [sys.executable, "-m", "trtcoder.testing.random_checkpoint", str(CHECKPOINT)]
        subprocess.run(generate, cwd=ROOT, check=True)
    shards = sorted(CHECKPOINT.glob("*.safetensors"))
    for engine in (ENGINE, AGAIN):
        shutil.rmtree(engine, ignore_errors=True)
        shutil.rmtree(engine.parent / f".{engine.name}.partial", ignore_errors=True)
    built = build(ENGINE)
    disk = disk_seconds(shards, built["bytes"])
    seconds = built["seconds"]["convert"] + built["seconds"]["commit"]
    speed = (disk["read"] + disk["write"]) / seconds
    rss = max(built["peak_rss_bytes"].values())
    click.echo(f"disk: read {disk['read']:.1f} s, write {disk['write']:.1f} s")
    click.echo(f"build: {seconds:.1f} s, {speed:.0%} of the disk's speed (goal {GOAL_SPEED:.0%})")
    click.echo(f"peak RSS: {rss / 2**30:.2f} GiB (goal {GOAL_RSS / 2**30:.0f} GiB)")
    killed = [kill_at(AGAIN, share) for share in KILLS]
    resumed = build(AGAIN)
    same = hashes(ENGINE) == hashes(AGAIN)
    click.echo(f"killed at {killed}, resumed: {'identical' if same else 'DIFFERENT'}")
    shutil.rmtree(AGAIN)
    result["build"] = {
        **built, "disk_seconds": disk, "share_of_disk_speed": round(speed, 3),
        "killed_at": killed, "resumed_seconds": resumed["seconds"], "identical": same,
    }  # fmt: skip
    result["run"] = in_new_process("engine", ENGINE)
    size = sum(path.stat().st_size for path in shards)
    result |= {
        "checkpoint_gb": size / 1e9, "tokens": int(TOKENS), "prefill_tokens": PREFILL,
        "decode_tokens": DECODE,
    }  # fmt: skip
    keep("lite", result)
    if not same or speed < GOAL_SPEED or rss > GOAL_RSS:
        raise click.ClickException("a goal is missed")


if __name__ == "__main__":
    main()
