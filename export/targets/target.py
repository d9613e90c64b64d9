"""What a target of `trtcoder build` is: a kind of engine, and how one is planned and watched."""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from trtcoder import __version__
from trtcoder.bundle.manifest import Manifest, ModelInfo
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.probe import Probe
from trtcoder.export.recipe import Recipe, RecipeOptions
from trtcoder.export.weights.journal import Journal
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.export.weights.resume import OnItem, OnStep
from trtcoder.export.weights.sink import Sink
from trtcoder.export.weights.writer import Stages, Written, write_weights
from trtcoder.model.architecture import ModelConfig
from trtcoder.prompting.source import Prompting, prompt_files

# Packages that compute stored values.
_ROUNDING = ("numpy", "numba", "ml_dtypes")


class EnginePlan(Protocol):
    """One engine, planned from shapes; no weight has been read."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What it is made of."""

    @property
    def recipe(self) -> Recipe:
        """How it is stored."""

    @property
    def weights(self) -> WeightPlan:
        """What is stored, and the steps that make it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the engine, but for its manifest and certificate."""

    @property
    def compiled_bytes(self) -> int:
        """Bytes of what is compiled from the weights and lies beside them, about."""

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache of one token takes, all layers together."""

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of the files that the sink writes: what an interrupted build goes on with."""

    def open_sink(self, folder: Path) -> AbstractContextManager[Sink]:
        """Open the files of ``folder`` that weights go to; what is in them stays.

        Raises:
            BuildError: the disk has no room for them.
        """

    def write_rest(self, folder: Path) -> None:
        """Write what is no weight to ``folder``, once the weights are there."""

    def manifest(self, prompting: Prompting, digest: str, method: str = "rtn") -> Manifest:
        """Return the engine's manifest, without files and certificate.

        ``digest`` is the checkpoint's; ``method`` chose the stored values.
        """


class Target(Protocol):
    """A kind of engine; `trtcoder.export.targets.registry` has those that there are."""

    @property
    def name(self) -> str:
        """Its name in manifests and on the command line."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """What ``--weights`` may name; the first one is the default."""

    def require(self) -> None:
        """Raise DependencyError unless what makes such engines is installed."""

    def recipe(self, options: RecipeOptions) -> Recipe:
        """Return how engines are stored; ``options.weights`` is named.

        Raises:
            BuildError: this kind of engine cannot be stored so.
        """

    def plan(
        self, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
    ) -> EnginePlan:
        """Plan an engine; ``quantizer`` chooses stored values, rounding to nearest by default.

        Raises:
            BuildError: the architecture has no engine of this kind, or none by this recipe.
        """

    def probe_levels(self, manifest: Manifest) -> tuple[int | None, ...]:
        """Return the accuracy levels by which an engine is probed.

        None is the engine as it serves; it comes first. 0 beside it has float32 activations, where
        the kernels round them otherwise: what storing the weights costs by itself.
        """

    def probe(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
    ) -> Probe[Any]:
        """Return what watches the engine in ``folder``, with one of `probe_levels`.

        Raises:
            DependencyError: a package that runs it is missing.
            EngineError: it cannot be watched.
        """


def model_info(checkpoint: Checkpoint) -> ModelInfo:
    """Return what a manifest says of a checkpoint's model."""
    config = checkpoint.config
    return ModelInfo(
        checkpoint.name, dict(config.raw), config.vocab_size, config.max_position_embeddings
    )


def write_engine(
    plan: EnginePlan,
    folder: Path,
    *,
    on_step: OnStep = lambda step: None,
    on_item: OnItem = lambda item: None,
    journal: Journal | None = None,
    stages: Stages | None = None,
) -> Written:
    """Write all files of an engine but its manifest; see `write_weights` for the arguments."""
    with plan.open_sink(folder) as sink:
        written = write_weights(
            plan.weights,
            sink,
            on_step=on_step,
            on_item=on_item,
            checkpoint=plan.checkpoint,
            journal=journal,
            stages=stages,
        )
    plan.write_rest(folder)
    return written


def journal_key(plan: EnginePlan, **more: object) -> dict[str, object]:
    """Return what the engine's bytes depend on beside the checkpoint's weights, for the journal.

    ``more`` is what a calibrated build adds.
    """
    checkpoint = plan.checkpoint
    shapes = [[w.name, w.dtype.name, *w.shape] for w in plan.weights.declared.values()]
    return {
        "trtcoder": __version__,
        "versions": {name: version(name) for name in _ROUNDING} | {"machine": platform.machine()},
        "config.json": _sha256(json.dumps(checkpoint.config.raw, sort_keys=True).encode()),
        "tensors": checkpoint.layout_digest(),
        **{name: _sha256(data) for name, data in prompt_files(checkpoint.folder).items()},
        "recipe": plan.recipe.to_dict(),
        "layout": _sha256(json.dumps(shapes).encode()),
        **more,
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
