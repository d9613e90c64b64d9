"""Step 2: paged latent attention against NumPy, in every type of cache and at several contexts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.gpu.one_node import OneNode, error_of
from tests.gpu.place import Found, Place
from tests.reference.paged import CacheForm, PagedBatch, attend

# Tokens before, and new ones, of the sequences of a step.
CASES: dict[str, tuple[list[int], list[int]]] = {
    "prompts": ([0, 0, 0], [100, 1, 37]),
    "decoding": ([15, 1000, 4095], [1, 1, 1]),
    "mixed": ([4000, 0, 63], [64, 20, 1]),
    "far": ([16000], [2]),
}
# Of the largest value: inputs and outputs have 11 or 8 bits, and sums are float32.
TOLERANCES = {"fp16": 2e-3, "bf16": 1.6e-2}
# What is written is rounded once: to the same bits, but for a tie of 8 bits that falls the other
# way, which is one step of the largest value.
WRITTEN = {"fp16": 0.0, "bf16": 0.0, "int8": 1.6e-2, "fp8": 7e-2}

Run = Callable[
    [Mapping[str, NDArray[Any]], Mapping[str, tuple[tuple[int, ...], Any]], Mapping[str, str]],
    dict[str, NDArray[Any]],
]


def run(place: Place) -> Found:
    """Run every prepared type of activations and cache."""
    values: dict[str, Any] = {}
    problems = []
    for folder in sorted(place.need("attention").iterdir()):
        node = OneNode(folder / "attention.onnx", place.device)
        config = json.loads((folder / "config.json").read_text())
        errors = compare(node.run, folder.name, config)
        values[folder.name] = errors
        problems += problems_of(folder.name, errors)
    told = ", ".join(f"{name} {max(errors.values()):.1e}" for name, errors in values.items())
    return Found(f"largest error against NumPy: {told}", values, tuple(problems))


def compare(
    run_node: Run,
    name: str,
    config: Mapping[str, Any],
    cases: Mapping[str, tuple[list[int], list[int]]] = CASES,
) -> dict[str, float]:
    """Return the errors of outputs and of what was written, by case."""
    activations, cache = name.split("-")
    dtype: Any = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[activations]
    heads, latent, width = config["heads"], config["latent"], config["width"]
    block = config["block"]
    scales = config.get("scales")
    form = CacheForm(cache, None if scales is None else np.array(scales, np.float32))
    found = {}
    for case, (past, new) in cases.items():
        rng = np.random.default_rng(5)
        batch, blocks = PagedBatch.of(past, new, block, rng)
        tokens = sum(new)
        query = rng.standard_normal((tokens, heads * width)).astype(dtype)
        entry = rng.standard_normal((tokens, width)).astype(dtype)
        before = form.encode(rng.standard_normal((blocks, block, width)))
        feeds = {
            "query": query,
            "entry": entry,
            "cache": before[:, :, None],
            "query_starts": batch.query_starts.astype(np.int32),
            "past_lengths": batch.past_lengths.astype(np.int32),
            "block_table": batch.block_table.astype(np.int32),
            "slots": batch.slots.astype(np.int32),
            "attention_metadata": batch.metadata,
        }
        outputs = {
            "out": ((tokens, heads * latent), dtype),
            "cache.out": ((blocks, block, 1, width), form.dtype),
        }
        ours = run_node(feeds, outputs, {"cache.out": "cache"})
        cached = before.copy()
        wanted = attend(
            query, entry, cached, batch, form,
            heads=heads, value=latent, scale=config["scale"],
        )  # fmt: skip
        found[case] = error_of(ours["out"], wanted)
        rows, truth = (
            form.decode(given.reshape(-1, width)[batch.slots])
            for given in (ours["cache.out"], cached)
        )
        found[f"{case}, written"] = error_of(rows, truth)
    return found


def problems_of(name: str, errors: Mapping[str, float]) -> list[str]:
    """Return the errors that are beyond their tolerance; NaN is."""
    activations, cache = name.split("-")
    return [
        f"{name}, {case}: {error:.1e} of the largest value"
        for case, error in errors.items()
        if not error <= (WRITTEN[cache] if case.endswith("written") else TOLERANCES[activations])
    ]
