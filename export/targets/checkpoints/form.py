"""The forms that quantized checkpoints have, and who reads them."""

from __future__ import annotations

import enum

from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.nvfp4 import Nvfp4
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.recipe import Recipe


class Form(enum.Enum):
    """How the quantized modules of a checkpoint are stored."""

    FP8_BLOCK = "fp8-block"
    FP8_TENSOR = "fp8-modelopt"
    NVFP4 = "nvfp4-modelopt"
    PACKED = "pack-quantized"


def form_of(recipe: Recipe) -> Form:
    """Return the form that stores a recipe's experts.

    Raises:
        BuildError: none does.
    """
    scheme = recipe.scheme("experts_gate_up")
    if isinstance(scheme, Float8):
        return Form.FP8_BLOCK if scheme.per_block else Form.FP8_TENSOR
    if isinstance(scheme, Nvfp4):
        return Form.NVFP4
    if isinstance(scheme, Scheme) and scheme.bits == 4:
        return Form.PACKED
    raise BuildError(f"weights: no form of checkpoint stores experts as {scheme}")


# TensorRT-LLM fuses gate and up of NVFP4 with scales that it has padded to so many rows each, and
# does not pad their codes: an MLP that is not made of whole tiles gets the scales of other rows.
# (auto_deploy/transform/library: fuse_swiglu.py, FuseNVFP4SwiGLU; fused_moe.py,
# _stack_nvfp4_moe_weights.)
FUSED_ROWS = 128


def readers(recipe: Recipe, expert_width: int) -> tuple[str, ...]:
    """Return the servers that load a recipe's checkpoints of this architecture.

    ``expert_width`` is the inner width of the routed experts.
    """
    form = form_of(recipe)
    if form is Form.NVFP4 and expert_width % FUSED_ROWS:
        return ("vllm", "sglang")
    if form is not Form.PACKED:
        return ("tensorrt-llm", "vllm", "sglang")
    scheme = recipe.scheme("experts_gate_up")
    # SGLang's experts are symmetric: its CompressedTensorsWNA16MoE refuses zero points.
    symmetric = isinstance(scheme, Scheme) and scheme.symmetric
    return ("vllm", "sglang") if symmetric else ("vllm",)
