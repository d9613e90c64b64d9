"""Graphs of both kinds of small random checkpoints, as plans are compiled of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.engines import write_checkpoint
from tests.quantized_checkpoints import full_like, lite_like
from trtcoder.bundle.manifest import Manifest
from trtcoder.calib.quantizers.quantizer import RoundToNearest
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.compiling import Compiling
from trtcoder.export.recipe import RecipeOptions
from trtcoder.export.targets.tensorrt_rtx.plan import RtxPlan
from trtcoder.export.targets.tensorrt_rtx.probe import SlotProbe
from trtcoder.export.targets.tensorrt_rtx.target import TensorRtRtx
from trtcoder.export.weights.writer import write_weights
from trtcoder.prompting.source import read_prompting

CONFIGS: dict[str, dict[str, Any]] = {
    "lite": lite_like(num_hidden_layers=3),
    "236b": full_like(num_hidden_layers=3),
    "normalised": lite_like(norm_topk_prob=True, n_shared_experts=None),
    "tied, dense": lite_like(tie_word_embeddings=True, first_k_dense_replace=2),
    # No width but the hidden one is a whole number of blocks.
    "odd": full_like(moe_intermediate_size=96, q_lora_rank=96, intermediate_size=200),
}


# Options of `RecipeOptions`, by name.
FORMS: dict[str, dict[str, Any]] = {
    "int4": {"weights": "int4"},
    "int4+fp8": {"weights": "int4+fp8"},
    "int4+fp8, static": {"weights": "int4+fp8", "activations": "static"},
}
# What calibration is taken to have seen of every activation; some are larger, and are cut off.
AMAX = 3.0


class Calibrated(RoundToNearest):
    """Knows the largest magnitude of every activation."""

    def amax(self, activation: str) -> float:
        return AMAX


@dataclass(frozen=True)
class Graphs:
    """What plans are compiled of, and the checkpoint that it was made of."""

    folder: Path
    source: Checkpoint
    manifest: Manifest

    def probe(self) -> SlotProbe:
        return SlotProbe(self.folder, self.manifest, self.source.config)


def plan_of(source: Checkpoint, form: str = "int4", **compiling: Any) -> RtxPlan:
    target = TensorRtRtx()
    options = RecipeOptions(**FORMS[form], compiling=Compiling(**compiling))
    return target.plan(source, target.recipe(options), Calibrated())


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Graphs]:
    root = tmp_path_factory.mktemp("graphs")

    @cache
    def written(kind: str) -> Checkpoint:
        return write_checkpoint(root / f"{kind} checkpoint", CONFIGS[kind])

    @cache
    def made(kind: str, form: str) -> Graphs:
        source, folder = written(kind), root / f"{kind}, {form}"
        folder.mkdir()
        plan = plan_of(source, form)
        with plan.open_sink(folder) as sink:
            write_weights(plan.weights, sink)
        plan.write_graphs(folder)
        return Graphs(folder, source, plan.manifest(read_prompting(source, True), "digest"))

    return lambda kind, form="int4": made(kind, form)
