"""Step 4: a Lite of random weights, made here: tokens a second and memory, beside transformers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.gpu.place import Found, Place
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest
from trtcoder.bundle.writer import BundleWriter
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.runner import ModelRunner

PREFILLS = (512, 2048)
# Streams and their contexts.
DECODES = ((1, 64), (1, 2048), (8, 512), (32, 512))
STEPS = 32
_CHUNK = 1 << 24


def run(place: Place) -> Found:
    """Measure our engine, then transformers in bfloat16."""
    engine = write_engine(place.need("lite"), place.work / "lite")
    config = Bundle.load(engine, verify_hashes=False).manifest.model.config
    values = {f"ours, {name}": value for name, value in with_ours(engine, place.device).items()}
    problems: tuple[str, ...] = ()
    try:
        theirs = with_transformers(dict(config), place.device)
        values |= {f"transformers, {name}": value for name, value in theirs.items()}
    except Exception as error:  # the other half of the step stands by itself
        problems = (f"transformers: {str(error).splitlines()[0] if str(error) else error!r}",)
    told = ", ".join(f"{name} {value:,.1f}" for name, value in values.items())
    return Found(told, values, problems)


def write_engine(prepared: Path, target: Path) -> Path:
    """Write an engine whose weights are drawn: codes at random, floats near what models have."""
    if target.exists():
        return target
    layout = json.loads((prepared / "layout.json").read_text())
    manifest = Manifest.from_json((prepared / "manifest.json").read_text())
    rng = np.random.default_rng(1)
    with BundleWriter(target) as writer:
        for path in prepared.iterdir():
            if path.name not in ("layout.json", "manifest.json"):
                shutil.copy(path, writer.folder / path.name)
        with (writer.folder / layout["file"]).open("wb") as file:
            for name, (offset, dtype, count) in layout["weights"].items():
                file.seek(offset)
                for start in range(0, count, _CHUNK):
                    draw_values(rng, name, dtype, min(_CHUNK, count - start)).tofile(file)
            file.truncate(layout["bytes"])
        writer.commit(manifest)
    return target


def draw_values(rng: np.random.Generator, name: str, dtype: str, count: int) -> np.ndarray:
    """Return values of a weight: codes, scales that keep activations near 1, norms of ones."""
    if dtype == "U8":
        return rng.integers(0, 256, count, np.uint8)
    values: NDArray[np.float32] = rng.standard_normal(count, np.float32) / np.float32(32)
    if name.endswith("/scales"):
        # A power of two, which both half types hold.
        values[:] = 2.0**-9
    elif "norm" in name:
        values[:] = 1
    if dtype == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype])


def with_ours(engine: Path, device: str) -> dict[str, float]:
    """Return tokens a second of prefill and decode, and gigabytes of the GPU's memory."""
    free = free_memory(device)
    start = time.perf_counter()
    most = max(max(PREFILLS), *(streams * (context + STEPS + 16) for streams, context in DECODES))
    runner = ModelRunner(Bundle.load(engine, verify_hashes=False), cache_tokens=2 * most)
    found = {"load s": time.perf_counter() - start}
    for length in PREFILLS:
        batch = prompt(runner, [length])
        runner.forward(batch)
        start = time.perf_counter()
        runner.forward(batch)
        found[f"prefill {length} tok/s"] = length / (time.perf_counter() - start)
    for streams, context in DECODES:
        runner.forward(prompt(runner, [context] * streams))
        start = 0.0
        for step in range(STEPS + 4):
            if step == 4:
                start = time.perf_counter()
            runner.forward(one_each(runner, streams, context, context + step))
        seconds = time.perf_counter() - start
        found[f"decode {streams} x {context} tok/s"] = streams * STEPS / seconds
    if device == "cuda":
        found["memory GB"] = (free - free_memory(device)) / 1e9
    return found


def prompt(runner: ModelRunner, lengths: list[int]) -> PackedBatch:
    """Return a step of whole prompts."""
    spans, first = [], 0
    for length in lengths:
        count = blocks_of(runner, length)
        ids = np.random.default_rng(length).integers(0, runner.vocab_size, length).tolist()
        spans.append(Span(ids, 0, np.arange(first, first + count), 1))
        first += count
    return PackedBatch.pack(spans, runner.block_size)


def one_each(runner: ModelRunner, streams: int, context: int, position: int) -> PackedBatch:
    """Return a step with the next token of each stream, behind the cache of `prompt`."""
    own = blocks_of(runner, context)
    spans = [
        Span([7], position, np.arange(own * stream, own * (stream + 1)), 1)
        for stream in range(streams)
    ]
    return PackedBatch.pack(spans, runner.block_size)


def blocks_of(runner: ModelRunner, length: int) -> int:
    """Return the blocks of a stream that has room for all steps."""
    return -(-(length + STEPS + 4) // runner.block_size)


def free_memory(device: str) -> int:
    """Return the free bytes of the GPU."""
    if device != "cuda":
        return 0
    import torch

    return int(torch.cuda.mem_get_info()[0])


def with_transformers(config: dict[str, Any], device: str) -> dict[str, float]:
    """Return the same of transformers in bfloat16, with random weights made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, DeepseekV2Config

    def sync() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    free = free_memory(device)
    with torch.device(device), torch.inference_mode():
        make: Any = AutoModelForCausalLM.from_config
        model = make(DeepseekV2Config(**config), dtype=torch.bfloat16).eval()
        found = {}
        for length in PREFILLS:
            ids = torch.randint(0, config["vocab_size"], (1, length))
            model(ids, logits_to_keep=1)
            sync()
            start = time.perf_counter()
            model(ids, logits_to_keep=1)
            sync()
            found[f"prefill {length} tok/s"] = length / (time.perf_counter() - start)
        for streams, context in DECODES:
            ids = torch.randint(0, config["vocab_size"], (streams, context))
            cache = model(ids, logits_to_keep=1, use_cache=True).past_key_values
            last = ids[:, -1:]
            start = 0.0
            for step in range(STEPS + 4):
                if step == 4:
                    sync()
                    start = time.perf_counter()
                model(last, past_key_values=cache, use_cache=True)
            sync()
            seconds = time.perf_counter() - start
            found[f"decode {streams} x {context} tok/s"] = streams * STEPS / seconds
    if device == "cuda":
        found["memory GB"] = (free - free_memory(device)) / 1e9
    return found
