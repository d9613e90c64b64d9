"""Speed, load time and memory of the demo engine and of a Lite of full width with 4 layers.

Every figure comes from a process of its own: its peak RSS is then that engine's and nothing
else's. Beside the demo engine stands transformers on the same checkpoint and the same tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.record import keep, peak_rss_mb

if TYPE_CHECKING:
    from trtcoder.checkpoint.reader import Checkpoint

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".work"
DEMO = ROOT / "demo" / "checkpoint"
PREFILL = 512
DECODE = 64
REPEATS = 3

COLUMNS = ("engine", "load s", "prefill tok/s", "decode tok/s", "peak RSS MB", "on disk MB")


def measure_engine(folder: Path) -> dict[str, Any]:
    """Return the figures of an engine, in this process."""
    from trtcoder.bundle.folder import Bundle
    from trtcoder.runtime.engine.batch import PackedBatch, Span
    from trtcoder.runtime.engine.runner import ModelRunner

    started = time.perf_counter()
    bundle = Bundle.load(folder, verify_hashes=False)
    runner = ModelRunner(bundle, cache_tokens=PREFILL + DECODE)
    load = time.perf_counter() - started
    prompt = _prompt(runner.vocab_size)
    blocks = np.arange(runner.num_blocks, dtype=np.int64)

    def forward(tokens: list[int], start: int) -> int:
        used = blocks[: -(-(start + len(tokens)) // runner.block_size)]
        batch = PackedBatch.pack([Span(tokens, start, used, 1)], runner.block_size)
        return int(runner.forward(batch)[0].argmax())

    def generate() -> tuple[float, float]:
        start = time.perf_counter()
        token = forward(prompt, 0)
        prefilled = time.perf_counter()
        for count in range(DECODE):
            token = forward([token], PREFILL + count)
        return prefilled - start, time.perf_counter() - prefilled

    size = sum(info.bytes for info in bundle.manifest.files.values())
    return _figures(generate, load, size)


def measure_transformers(folder: Path) -> dict[str, Any]:
    """Return the figures of transformers in bf16, in this process."""
    started = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    load = time.perf_counter() - started
    prompt = torch.tensor([_prompt(model.config.vocab_size)])

    @torch.inference_mode()
    def generate() -> tuple[float, float]:
        start = time.perf_counter()
        result = model(prompt, use_cache=True, logits_to_keep=1)
        prefilled = time.perf_counter()
        for _ in range(DECODE):
            token = result.logits[:, -1:].argmax(-1)
            result = model(token, past_key_values=result.past_key_values, use_cache=True)
        return prefilled - start, time.perf_counter() - prefilled

    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return _figures(generate, load, size)


def _prompt(vocab_size: int) -> list[int]:
    ids: list[int] = np.random.default_rng(0).integers(0, vocab_size - 8, PREFILL).tolist()
    return ids


def _figures(generate: Callable[[], tuple[float, float]], load: float, size: int) -> dict[str, Any]:
    generate()
    runs = [generate() for _ in range(REPEATS)]
    prefill, decode = (float(np.median(times)) for times in zip(*runs, strict=True))
    return {
        "load_seconds": round(load, 3),
        "prefill_tokens_per_second": round(PREFILL / prefill, 1),
        "decode_tokens_per_second": round(DECODE / decode, 1),
        "peak_rss_mb": peak_rss_mb(),
        "disk_mb": round(size / 1e6, 1),
    }


MEASURES = {"engine": measure_engine, "transformers": measure_transformers}


def prepare(out: Path, checkpoint: Path | Checkpoint, weights: str, cache: str = "fp32") -> Path:
    """Build an engine if it is not there; speed does not need the comparison with a reference."""
    from trtcoder.bundle.writer import BundleWriter
    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.export.recipe import preset
    from trtcoder.export.targets.onnxruntime import OnnxRuntime
    from trtcoder.export.targets.target import write_engine
    from trtcoder.prompting.source import read_prompting

    if not out.is_dir():
        source = Checkpoint.open(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        plan = OnnxRuntime().plan(source, preset(weights, cache=cache))
        with BundleWriter(out) as writer:
            write_engine(plan, writer.folder)
            writer.commit(plan.manifest(read_prompting(source), "not hashed"))
    return out


def in_new_process(kind: str, folder: Path) -> dict[str, Any]:
    """Run a measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", kind, str(folder)]
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ}
    )
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


@click.command()
@click.option("--measure", nargs=2, type=(click.Choice(list(MEASURES)), Path), hidden=True)
@click.option("--lite-layers", default=4, show_default=True, help="Layers of the reduced Lite.")
def main(measure: tuple[str, Path] | None, lite_layers: int) -> None:
    """Measure and print a table, then one JSON line."""
    if measure is not None:
        kind, folder = measure
        print(json.dumps(MEASURES[kind](folder)))
        return
    from benchmarks.engines import lite_checkpoint

    lite = lite_checkpoint(lite_layers)
    plan = [
        ("demo fp32", "engine", WORK / "demo-fp32", DEMO, "fp32"),
        ("demo int8", "engine", WORK / "demo-int8", DEMO, "int8"),
        ("demo int4", "engine", WORK / "demo-int4", DEMO, "int4"),
        ("demo bf16, transformers", "transformers", DEMO, DEMO, ""),
        (f"Lite, {lite_layers} layers, int4", "engine", WORK / f"{lite.name}-int4", lite, "int4"),
        (f"Lite, {lite_layers} layers, bf16, transformers", "transformers", lite, lite, ""),
    ]
    rows: dict[str, dict[str, Any]] = {}
    click.echo(f"{COLUMNS[0]:<34}" + "".join(f"{column:>15}" for column in COLUMNS[1:]))
    for label, kind, folder, checkpoint, weights in plan:
        if weights:
            prepare(folder, checkpoint, weights)
        rows[label] = in_new_process(kind, folder)
        click.echo(f"{label:<34}" + "".join(f"{value:>15,}" for value in rows[label].values()))
    keep("speed", {"prefill_tokens": PREFILL, "decode_tokens": DECODE, "engines": rows})


if __name__ == "__main__":
    main()
