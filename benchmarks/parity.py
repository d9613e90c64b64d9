"""Engines of random checkpoints of every kind against both references, as one table.

The fp32 engine must agree with each reference; int8 and int4 show what storing the weights costs
a random model, which is far more sensitive than a trained one: nothing is gated on them here. Where
our kernels run an int4 engine, ONNX Runtime's own operators stand beside them.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import keep
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.inputs import CACHE_BLOCK
from trtcoder.export.parity.graph_probe import EngineTrace, GraphProbe
from trtcoder.export.parity.logits import kl_divergence
from trtcoder.export.parity.verify import far_positions
from trtcoder.export.recipe import preset
from trtcoder.export.reference.model import TransformersReference
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.plugins.choice import without_kernels
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

TOKENS = 96
# From 0, and with a gap of 8,192 positions in the middle.
POSITIONS = {"0": np.arange(TOKENS), "0, 8192": far_positions(TOKENS, CACHE_BLOCK)}
# Two float32 implementations that add in another order differ by about 1e-6 of the largest logit;
# a wrong formula by 1e-2 and more. The gate of the fp32 engine lies between.
LIMIT = 1e-4
KINDS: dict[str, dict[str, Any]] = {
    "q_proj": {},
    "q_lora": {"q_lora_rank": 96},
}
ROUTERS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "grouped": {
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 16.0,
    },
}
NORMALISED = {"": {}, "+norm": {"norm_topk_prob": True}}
HEADER = ("checkpoint", "position", "references", "vs transf.", "vs NumPy", "decode", "int8 KL",
          "int8 cache KL", "int4 KL", "stock int4 KL", "two ways KL")  # fmt: skip


def run_engine(
    checkpoint: Checkpoint, folder: Path, ids: NDArray[np.int64], **recipe: Any
) -> dict[str, EngineTrace]:
    """Build an engine and return its values at each of `POSITIONS`."""
    plan = OnnxRuntime().plan(checkpoint, preset(**recipe))
    folder.mkdir()
    write_engine(plan, folder)
    manifest = plan.manifest(read_prompting(checkpoint), "not hashed")
    probe = GraphProbe(folder, manifest, checkpoint.config)
    traces = {
        label: probe.run(ids.tolist(), positions=positions)
        for label, positions in POSITIONS.items()
    }
    # Where our kernels run it, ONNX Runtime's own operators must agree.
    stock = GraphProbe(
        folder, manifest, checkpoint.config, choice=without_kernels(manifest.onnx_parts)
    )
    for label, positions in POSITIONS.items():
        traces[f"stock {label}"] = stock.run(ids.tolist(), positions=positions)
    if recipe["weights"] == "fp32" and recipe.get("cache") is None:
        # One more entry: the first positions, decoded token by token.
        traces["decoded"] = probe.run(ids.tolist(), chunk=1)
    return traces


def compare(name: str, overrides: dict[str, Any], work: Path) -> list[dict[str, Any]]:
    """Return a row for each of `POSITIONS`."""
    from tests.reference.model import NumpyReference

    folder = write_random_checkpoint(work / name, tiny_config(**overrides), seed=1)
    checkpoint = Checkpoint.open(folder)
    ids = np.random.default_rng(2).integers(0, 256, TOKENS)
    wanted = TransformersReference(checkpoint).run([ids] * len(POSITIONS), list(POSITIONS.values()))
    exact = run_engine(checkpoint, work / f"{name}-fp32", ids, weights="fp32")
    int8 = run_engine(checkpoint, work / f"{name}-int8", ids, weights="int8")
    int4 = run_engine(checkpoint, work / f"{name}-int4", ids, weights="int4")
    cache = run_engine(checkpoint, work / f"{name}-cache", ids, weights="fp32", cache="int8")
    rows = []
    for (label, positions), reference in zip(POSITIONS.items(), wanted, strict=True):
        other = NumpyReference(folder).run(ids.tolist(), list(positions)).logits
        logits = exact[label].logits
        rows.append(
            {
                "checkpoint": name,
                "position": label,
                "references": relative(reference.logits, other),
                "transformers": relative(logits, reference.logits),
                "numpy": relative(logits, other),
                "decode": relative(exact["decoded"].logits, logits) if label == "0" else None,
                "int8_kl": mean_kl(other, int8[label].logits),
                "int8_cache_kl": mean_kl(other, cache[label].logits),
                "int4_kl": mean_kl(other, int4[label].logits),
                "stock_int4_kl": mean_kl(other, int4[f"stock {label}"].logits),
                "two_ways_kl": mean_kl(int4[f"stock {label}"].logits, int4[label].logits),
            }
        )
    return rows


def relative(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest difference over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def mean_kl(reference: NDArray[Any], engine: NDArray[Any]) -> float:
    """Return the mean KL in nats."""
    return float(kl_divergence(reference, engine).mean())


@click.command()
def main() -> None:
    """Compare and print a table, then one JSON line; exit with 1 when the fp32 gate is missed."""
    click.echo(f"{HEADER[0]:<22}" + "".join(f"{column:>14}" for column in HEADER[1:]))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for (kind, a), (router, b), (norm, c) in itertools.product(
            KINDS.items(), ROUTERS.items(), NORMALISED.items()
        ):
            for row in compare(f"{kind} {router}{norm}", a | b | c, Path(work)):
                values = [
                    "" if value is None else f"{value:.1e}" for value in list(row.values())[2:]
                ]
                click.echo(
                    f"{row['checkpoint']:<22}{row['position']:>14}"
                    + "".join(f"{value:>14}" for value in values)
                )
                rows.append(row)
    errors = [
        row[key]
        for row in rows
        for key in ("references", "transformers", "numpy", "decode")
        if row[key] is not None
    ]
    passed = max(errors) <= LIMIT
    keep("parity", {"limit": LIMIT, "passed": passed, "rows": rows})
    if not passed:
        raise click.ClickException(f"an fp32 comparison exceeds {LIMIT}")


if __name__ == "__main__":
    main()
