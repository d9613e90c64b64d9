"""The targets ``tensorrt-llm`` and ``compressed-tensors``: what each takes and plans."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trtcoder.bundle.manifest import Manifest
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.nvfp4 import GROUP, Nvfp4
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import SCHEMED, Recipe, RecipeOptions, preset
from trtcoder.export.targets.checkpoints.deepseek_v2 import declare_deepseek_v2, refuse_other_types
from trtcoder.export.targets.checkpoints.plan import CheckpointPlan
from trtcoder.export.targets.checkpoints.probe import CheckpointProbe
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.model.architecture import ModelConfig

GROUPS = (128, 64, 32)


class _CheckpointTarget:
    """What both have in common."""

    name: str

    def require(self) -> None:
        """Ask for nothing: a checkpoint is written by what writes every engine."""

    def plan(
        self, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
    ) -> CheckpointPlan:
        """Plan a checkpoint."""
        refuse_other_types(checkpoint)
        weights = WeightPlan(quantizer)
        excluded = declare_deepseek_v2(weights, checkpoint, recipe)
        return CheckpointPlan(self.name, checkpoint, recipe, weights, excluded)

    def probe_levels(self, manifest: Manifest) -> tuple[int | None, ...]:
        """Return None, and 0 where servers round activations too."""
        return (None, 0) if manifest.recipe.get("activations") else (None,)

    def probe(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
    ) -> CheckpointProbe:
        """Return what computes with the values that ``folder`` stores."""
        return CheckpointProbe(folder, rounds_activations=accuracy_level is None)

    def _refuse_others(self, options: RecipeOptions) -> None:
        """Raise BuildError for options of engines that run here."""
        options.refuse_absorbed(f"--target {self.name}")
        if options.cache not in (None, "fp32"):
            raise BuildError(
                f"--cache {options.cache}: the server chooses its own cache; leave --cache out and "
                "set it there (vLLM and SGLang: --kv-cache-dtype fp8)"
            )


class TensorRtLlm(_CheckpointTarget):
    """Float8 and NVFP4 checkpoints for TensorRT-LLM, vLLM and SGLang (see `Target`)."""

    name = "tensorrt-llm"
    precisions = ("fp8", "nvfp4")

    def recipe(self, options: RecipeOptions) -> Recipe:
        """Return float8 in blocks of 128 x 128, or with one scale a matrix in ModelOpt's form.

        Or NVFP4, in ModelOpt's form.
        """
        self._refuse_others(options)
        if options.weights == "int4":
            raise BuildError(
                "--weights int4: TensorRT-LLM has no int4 experts for this model, only fp8 and "
                "nvfp4; use these, or --target compressed-tensors for vLLM and SGLang"
            )
        if options.weights == "nvfp4":
            return _nvfp4(options)
        if options.weights not in (None, "fp8"):
            raise BuildError(
                f"--weights {options.weights}: --target tensorrt-llm stores fp8 and nvfp4 only"
            )
        expected = "static" if options.fp8_scales == "tensor" else "dynamic"
        if options.activations not in (None, expected):
            raise BuildError(
                f"--activations {options.activations}: servers round activations with "
                f"{expected} scales where the weights have --fp8-scales "
                f"{options.fp8_scales or 'block'}; leave it out"
            )
        recipe = preset("fp8", fp8_scales=options.fp8_scales, activations=expected)
        schemes = {
            kind: dataclasses.replace(scheme, scale_type="bfloat16")
            if isinstance(scheme, Float8)
            else scheme
            for kind, scheme in recipe.schemes.items()
        }
        return dataclasses.replace(recipe, schemes=schemes)


class CompressedTensors(_CheckpointTarget):
    """Int4 checkpoints for vLLM and SGLang (see `Target`)."""

    name = "compressed-tensors"
    precisions = ("int4",)

    def recipe(self, options: RecipeOptions) -> Recipe:
        """Return int4 in groups of 128, 64 or 32, with or without zero points."""
        self._refuse_others(options)
        if options.weights not in (None, "int4"):
            floats = options.weights in TensorRtLlm.precisions
            remedy = "; use --target tensorrt-llm" if floats else ""
            raise BuildError(
                f"--weights {options.weights}: --target compressed-tensors stores int4 only{remedy}"
            )
        for option, value in (
            ("--fp8-scales", options.fp8_scales),
            ("--activations", options.activations),
        ):
            if value is not None:
                raise BuildError(f"{option} is for fp8, not for int4; leave it out")
        group = GROUPS[0] if options.block_size is None else options.block_size
        if group not in GROUPS:
            raise BuildError(
                f"--block-size {group}: the kernels for packed int4 take groups of "
                f"{', '.join(map(str, GROUPS))}"
            )
        scheme = Scheme(4, group, options.symmetric, bfloat16_scales=True)
        schemes = dict.fromkeys(SCHEMED, scheme) | {"embedding": FLOAT32, "lm_head": FLOAT32}
        return Recipe("int4", schemes, "fp32", 0)


def _nvfp4(options: RecipeOptions) -> Recipe:
    """Return NVFP4, whose blocks are of 16 and whose activations are rounded by calibration."""
    if options.fp8_scales is not None:
        raise BuildError("--fp8-scales is for fp8, not for nvfp4; leave it out")
    if options.block_size not in (None, GROUP) or not options.symmetric:
        raise BuildError(
            f"--weights nvfp4: has blocks of {GROUP} without zero points; leave --block-size and "
            "--zero-points out"
        )
    if options.activations not in (None, "static"):
        raise BuildError(
            f"--activations {options.activations}: servers round activations of nvfp4 under a "
            "scale from calibration; leave it out"
        )
    schemes = dict.fromkeys(SCHEMED, Nvfp4()) | {"embedding": FLOAT32, "lm_head": FLOAT32}
    return Recipe("nvfp4", schemes, "fp32", 0, "static")
