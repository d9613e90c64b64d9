"""What float8 costs the demo model: scales of weights and activations, each class, the cache.

Engines are compared with the reference as `trtcoder verify` does, on the part of the held-out text
that defaults are chosen by (`benchmarks.heldout`).
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.heldout import split_heldout
from benchmarks.judge import Judge
from benchmarks.record import keep
from benchmarks.speed import DEMO
from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.scheme import FLOAT32
from trtcoder.calib.storage.storage import Storage
from trtcoder.calib.text.calibration import load_calibration
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.calibration.calibrate import Calibration
from trtcoder.export.parity.graph_probe import GraphProbe
from trtcoder.export.recipe import SCHEMED, Recipe, preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import EnginePlan, write_engine
from trtcoder.prompting.source import read_prompting

CALIBRATION_TOKENS = 8192


def variants() -> dict[str, Recipe]:
    """Return the recipes that are compared."""
    found = {"fp32": preset("fp32")}
    for scales in ("tensor", "block"):
        for activations in ("float", "static", "dynamic"):
            recipe = preset("fp8", fp8_scales=scales, activations=activations)
            found[f"{scales}, {activations}"] = recipe
    served = preset("fp8")
    for kind in ("attention", "mlp", "experts", "lm_head"):
        # The fused experts take gate, up and down alike.
        schemes: dict[str, Storage] = dict.fromkeys(SCHEMED, FLOAT32)
        schemes |= {name: Float8() for name in SCHEMED if name.startswith(kind)}
        found[f"only {kind}"] = dataclasses.replace(served, schemes=schemes)
    found["block, dynamic, lm_head"] = dataclasses.replace(
        served, schemes={**served.schemes, "lm_head": Float8()}
    )
    found["fp32, int8 cache"] = preset("fp32", cache="int8")
    found["fp32, fp8 cache"] = preset("fp32", cache="fp8")
    found["block, dynamic, fp8 cache"] = preset("fp8", cache="fp8")
    return found


class Comparison:
    """Builds engines without the command line, and compares them with the reference."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.prompting = read_prompting(checkpoint)
        self.text = split_heldout(self.prompting.prompts())
        self.judge = Judge(checkpoint, self.text.choosing)

    def measure(self, recipe: Recipe, folder: Path) -> dict[str, Any]:
        """Build an engine and compare it."""
        plan = self._write(recipe, folder)
        manifest = plan.manifest(self.prompting, digest="")
        return self.judge.compare_engine(GraphProbe(folder, manifest, self.checkpoint.config))

    def _write(self, recipe: Recipe, folder: Path) -> EnginePlan:
        if recipe.activations != "static":
            plan = OnnxRuntime().plan(self.checkpoint, recipe)
            write_engine(plan, folder)
            return plan
        text = load_calibration(self.prompting.prompts(), CALIBRATION_TOKENS)
        calibration = Calibration(self.checkpoint, text, "rtn", folder)
        plan = OnnxRuntime().plan(self.checkpoint, recipe, calibration.quantizer)
        calibration.attach(plan.weights, lambda item: None)
        write_engine(plan, folder, stages=calibration)
        return plan


@click.command()
@click.argument("only", nargs=-1)
def main(only: tuple[str, ...]) -> None:
    """Compare all variants, or those named; print a table, then one JSON line."""
    comparison = Comparison(Checkpoint.open(DEMO))
    rows: dict[str, dict[str, Any]] = {}
    click.echo(
        "variant                      KL mean    KL p99   top-1   perplexity plain/fim/chat/all"
    )
    for label, recipe in variants().items():
        if only and label not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = comparison.measure(recipe, Path(folder))
        changes = {text["kind"]: text["perplexity_change"] for text in found["texts"]}
        changes["all"] = found["perplexity_change"]
        rows[label] = {
            "kl_mean": found["kl_mean"],
            "kl_p99": found["kl_p99"],
            "top1": found["top1_agreement"],
            "perplexity_change": changes,
        }
        click.echo(
            f"{label:27} {found['kl_mean']:9.2e} {found['kl_p99']:9.2e} "
            f"{found['top1_agreement']:7.2%}  "
            + " ".join(f"{change:+8.3%}" for change in changes.values())
        )
    if not only:
        keep("fp8", {"text": comparison.text.describe(), "engines": rows})


if __name__ == "__main__":
    main()
