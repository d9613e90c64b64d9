"""The target ``tensorrt-rtx``: what it takes, plans and is watched by."""

from __future__ import annotations

from pathlib import Path

from trtcoder.bundle.compiled import TARGET
from trtcoder.bundle.manifest import Manifest
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import SCHEMED, Recipe, RecipeOptions
from trtcoder.export.targets.tensorrt_rtx.plan import RtxPlan
from trtcoder.export.targets.tensorrt_rtx.probe import SlotProbe
from trtcoder.model.architecture import ModelConfig
from trtcoder.tensorrt_rtx.gpus import DEFAULT, check_gpus
from trtcoder.tensorrt_rtx.libraries import require_packages

# What the fused experts take.
BLOCK = 128


class TensorRtRtx:
    """Engines of compiled plans (see `Target`)."""

    name = TARGET
    precisions = ("int4",)

    def require(self) -> None:
        """Raise DependencyError unless TensorRT-RTX and its plugins are installed."""
        require_packages()

    def recipe(self, options: RecipeOptions) -> Recipe:
        """Return int4 in groups of 128; embedding and head stay in 16 bits."""
        options.refuse_absorbed(f"--target {TARGET}")
        compiling = options.compiling
        compiling.check()
        weights = options.weights or self.precisions[0]
        check_gpus(compiling.capabilities or DEFAULT, weights)
        if weights not in self.precisions:
            raise BuildError(
                f"--weights {weights}: --target {TARGET} stores int4 only, which the fused experts "
                "take"
            )
        if options.block_size not in (None, BLOCK) or not options.symmetric:
            raise BuildError(
                f"--target {TARGET}: its fused experts take int4 in groups of {BLOCK} without zero "
                "points; leave --block-size and --zero-points out"
            )
        if options.cache not in (None, "fp16"):
            raise BuildError(
                f"--cache {options.cache}: the cache of --target {TARGET} is float16; leave "
                "--cache out"
            )
        for option, value in (
            ("--fp8-scales", options.fp8_scales),
            ("--activations", options.activations),
        ):
            if value is not None:
                raise BuildError(f"{option} is for fp8, not for int4; leave it out")
        schemes = dict.fromkeys(SCHEMED, Scheme(4, BLOCK, positive_scales=True))
        schemes |= {"embedding": FLOAT32, "lm_head": FLOAT32}
        return Recipe(weights, schemes, "fp16", 0, compiling=compiling)

    def plan(
        self, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
    ) -> RtxPlan:
        """Plan an engine."""
        model_type = checkpoint.config.raw.get("model_type")
        if model_type != "deepseek_v2":
            raise BuildError(
                f"{checkpoint.folder}: plans are compiled of deepseek_v2 only, not of "
                f"{model_type!r}; use --target onnx"
            )
        return RtxPlan.make(checkpoint, recipe, quantizer)

    def probe_levels(self, manifest: Manifest) -> tuple[int | None, ...]:
        """Return None: there is one accuracy."""
        return (None,)

    def probe(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
    ) -> SlotProbe:
        """Return what runs the graphs that the plans were compiled from."""
        return SlotProbe(folder, manifest, config)
