"""Our engine, on the kernels and on ONNX Runtime's operators, beside llama.cpp on one machine.

A Lite of random weights; every program runs in a process of its own, and they take turns, round by
round. For each row: the median of each, and the median over rounds of our kernels' speed over that
of the best of llama.cpp's settings in the same round. Beside them the machine's read bandwidth, and
the tokens a second that it allows.

All 27 layers need 30 GB of disk for the checkpoint, 63 GB for llama.cpp's float32 file while it is
quantized, and an hour. `--layers` takes fewer.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.cpu_work import all_work
from benchmarks.engines import lite_checkpoint, lite_engine
from benchmarks.llama_cpp import cache, obtain
from benchmarks.load import gguf
from benchmarks.record import keep
from trtcoder.cores import available_cores

ROOT = Path(__file__).parents[1]
KERNELS, STOCK = "trtcoder", "trtcoder, ONNX Runtime's operators"
# Kind of file, whether repacked, whether with flash attention.
SETTINGS = [(kind, repack, flash) for kind in ("Q4_0", "Q4_K_M") for repack in (1, 0)
            for flash in (1, 0)]  # fmt: skip


def read_bandwidth() -> float:
    """Return the bytes a second that all cores read together, the best of five."""
    cores = available_cores()
    arrays = [np.ones(1 << 26, np.int64) for _ in range(cores)]
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.sum, arrays))
            best = max(best, sum(a.nbytes for a in arrays) / (time.perf_counter() - started))
    return best


def bytes_a_token(engine: Path) -> int:
    """Return the bytes of weights that a decoding step of one token reads."""
    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.export.recipe import preset
    from trtcoder.export.targets.onnxruntime import OnnxRuntime

    layers = json.loads((engine / "manifest.json").read_text())["model"]["config"]
    source = Checkpoint.describe(lite_checkpoint(layers["num_hidden_layers"]))
    share = layers["num_experts_per_tok"] / layers["n_routed_experts"]
    total = 0.0
    for weight in OnnxRuntime().plan(source, preset("int4")).weights.declared.values():
        if weight.kind != "embedding":
            total += weight.nbytes * (share if "experts_" in weight.kind else 1.0)
    return int(total)


def run(command: list[str], **environment: str) -> dict[str, Any]:
    """Run a measurement in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", *command], check=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def median(values: list[float]) -> float:
    """Return the median, to four digits."""
    return float(f"{statistics.median(values):.4g}")


@click.command()
@click.option("--layers", default=27, show_default=True, help="Layers of the Lite.")
@click.option("--rounds", default=3, show_default=True, help="Turns of every program.")
@click.option("--row", "rows", multiple=True, help="Only these rows, such as 'decode at 512'.")
@click.option("--setting", "settings", multiple=True, help="Only these, such as Q4_0/1/1.")
@click.option("--no-keep", is_flag=True, help="Do not write the result.")
def main(
    layers: int, rounds: int, rows: tuple[str, ...], settings: tuple[str, ...], no_keep: bool
) -> None:
    """Measure and print a table, then one JSON line."""
    names = [work.name for work in all_work() if not rows or work.name in rows]
    engine, llama = lite_engine(layers), obtain(cache())
    chosen = [each for each in SETTINGS if not settings or "/".join(map(str, each)) in settings]
    models = {kind: gguf(llama, lite_checkpoint(layers), kind) for kind, _, _ in chosen}
    found: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for number in range(rounds):
        click.echo(f"round {number + 1}", err=True)
        ours = ["benchmarks.cpu_ours", str(engine), *names]
        found.setdefault(KERNELS, []).append(run(ours))
        found.setdefault(STOCK, []).append(run(ours, TRTCODER_PLUGINS="0"))
        for kind, repack, flash in chosen:
            name = f"llama.cpp {kind}{', repacked' * repack}{', flash attention' * flash}"
            command = ["benchmarks.cpu_llama", str(models[kind]), str(repack), str(flash), *names]
            try:
                found.setdefault(name, []).append(run(command))
            except subprocess.CalledProcessError as error:
                # Repacked for AMX, some releases abort on this architecture.
                failed[name] = f"ended with {error.returncode}"
                click.echo(f"{name}: {failed[name]}", err=True)
    found = {name: runs for name, runs in found.items() if len(runs) == rounds}
    peers = [name for name in found if name.startswith("llama.cpp")]
    speeds = {
        name: {row: median([made["speeds"][row] for made in runs]) for row in names}
        for name, runs in found.items()
    }
    ratios = {
        row: median(
            [
                mine["speeds"][row] / max(found[peer][number]["speeds"][row] for peer in peers)
                for number, mine in enumerate(found[KERNELS])
            ]
        )
        for row in names
    }
    bandwidth, needed = read_bandwidth(), bytes_a_token(engine)
    result = {
        "layers": layers,
        "rounds": rounds,
        "engine_bytes": sum(path.stat().st_size for path in engine.iterdir()),
        "read_bandwidth": float(f"{bandwidth:.4g}"),
        "bytes_a_token": needed,
        "memory_limit": float(f"{bandwidth / needed:.4g}"),
        "failed": failed,
        "runs_on": found[KERNELS][0]["runs_on"],
        "tokens_per_second": speeds,
        "ratio_to_best_of_llama_cpp": ratios,
        "load_seconds": {
            name: median([made["load_seconds"] for made in runs]) for name, runs in found.items()
        },
        "peak_rss_mb": {
            name: median([made["peak_rss_mb"] for made in runs]) for name, runs in found.items()
        },
    }
    for line in table(names, speeds, ratios, peers):
        click.echo(line)
    click.echo(
        f"memory reads {bandwidth / 1e9:.1f} GB/s: at most {bandwidth / needed:.1f} tokens/s for "
        f"{needed / 1e6:.0f} MB a token"
    )
    for key in ("load_seconds", "peak_rss_mb"):
        click.echo(f"{key}: {result[key]}")
    if no_keep:
        click.echo(json.dumps(result))
    else:
        keep("cpu", result)


def table(
    names: list[str],
    speeds: dict[str, dict[str, float]],
    ratios: dict[str, float],
    peers: list[str],
) -> list[str]:
    """Return the lines of the table, in tokens a second."""
    header = f"{'':<22}{'kernels':>10}{'stock':>10}{'llama.cpp':>12}{'ratio':>8}  best setting"
    lines = [header]
    for row in names:
        best = max(peers, key=lambda name: speeds[name][row])
        lines.append(
            f"{row:<22}{speeds[KERNELS][row]:>10.2f}{speeds[STOCK][row]:>10.2f}"
            f"{speeds[best][row]:>12.2f}{ratios[row]:>8.2f}  {best.removeprefix('llama.cpp ')}"
        )
    return lines


if __name__ == "__main__":
    main()
