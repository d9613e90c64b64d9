"""The target ``tensorrt-rtx``: what it takes, plans and is watched by."""

from __future__ import annotations

from pathlib import Path

from trtcoder.bundle.compiled import TARGET
from trtcoder.bundle.manifest import Manifest
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.calib.storage.storage import GraphStorage, Storage
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import SCHEMED, Recipe, RecipeOptions
from trtcoder.export.targets.tensorrt_rtx.plan import RtxPlan
from trtcoder.export.targets.tensorrt_rtx.probe import SlotProbe
from trtcoder.model.architecture import ModelConfig
from trtcoder.tensorrt_rtx.gpus import check_gpus, default_gpus
from trtcoder.tensorrt_rtx.libraries import require_packages

# What the fused experts take.
BLOCK = 128
# Experts in int4, all other matrices but the head in float8.
MIXTURE = "int4+fp8"
_ACTIVATIONS = ("float", "static")


class TensorRtRtx:
    """Engines of compiled plans (see `Target`)."""

    name = TARGET
    precisions = ("int4", MIXTURE)

    def require(self) -> None:
        """Raise DependencyError unless TensorRT-RTX and its plugins are installed."""
        require_packages()

    def recipe(self, options: RecipeOptions) -> Recipe:
        """Return int4 in groups of 128, or with all matrices but experts in float8.

        Embedding and head stay in 16 bits.
        """
        options.refuse_absorbed(f"--target {TARGET}")
        compiling = options.compiling
        compiling.check()
        weights = options.weights or self.precisions[0]
        if weights not in self.precisions:
            raise BuildError(
                f"--weights {weights}: the fused experts of --target {TARGET} take int4 only; use "
                f"--weights int4, or {MIXTURE}, which stores all other matrices in fp8"
            )
        check_gpus(compiling.capabilities or default_gpus(weights), weights)
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
        experts = Scheme(4, BLOCK, positive_scales=True)
        others, activations = _float8(options) if weights == MIXTURE else _int4(options, experts)
        schemes: dict[str, Storage] = dict.fromkeys(SCHEMED, others)
        schemes |= dict.fromkeys(("experts_gate_up", "experts_down"), experts)
        schemes |= {"embedding": FLOAT32, "lm_head": FLOAT32}
        return Recipe(weights, schemes, "fp16", 0, activations, compiling=compiling)

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


def _int4(options: RecipeOptions, scheme: Scheme) -> tuple[GraphStorage, None]:
    for option, value in (
        ("--fp8-scales", options.fp8_scales),
        ("--activations", options.activations),
    ):
        if value is not None:
            raise BuildError(f"{option} is for {MIXTURE}, not for int4; leave it out")
    return scheme, None


def _float8(options: RecipeOptions) -> tuple[GraphStorage, str]:
    """Return float8 as TensorRT-RTX multiplies it without unpacking it first."""
    if options.fp8_scales not in (None, "tensor"):
        raise BuildError(
            f"--fp8-scales {options.fp8_scales}: TensorRT-RTX writes matrices with scales of "
            "blocks out in float16 at every step; leave it out"
        )
    activations = options.activations or _ACTIVATIONS[0]
    if activations not in _ACTIVATIONS:
        raise BuildError(
            f"--activations {activations}: plans take {' or '.join(_ACTIVATIONS)}; TensorRT-RTX "
            "rounds activations with scales that are known when it compiles"
        )
    scheme = Float8(per_block=False, activations=activations, scale_type="float16")
    return scheme, activations
