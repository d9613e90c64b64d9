"""The forms that quantized checkpoints have, and who reads them."""

from __future__ import annotations

import enum

from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.recipe import Recipe


class Form(enum.Enum):
    """How the quantized modules of a checkpoint are stored."""

    FP8_BLOCK = "fp8-block"
    FP8_TENSOR = "fp8-modelopt"
    PACKED = "pack-quantized"


def form_of(recipe: Recipe) -> Form:
    """Return the form that stores a recipe's experts.

    Raises:
        BuildError: none does.
    """
    scheme = recipe.scheme("experts_gate_up")
    if isinstance(scheme, Float8):
        return Form.FP8_BLOCK if scheme.per_block else Form.FP8_TENSOR
    if isinstance(scheme, Scheme) and scheme.bits == 4:
        return Form.PACKED
    raise BuildError(f"weights: no form of checkpoint stores experts as {scheme}")


def readers(recipe: Recipe) -> tuple[str, ...]:
    """Return the servers that load a recipe's checkpoints of this architecture."""
    if form_of(recipe) is not Form.PACKED:
        return ("tensorrt-llm", "vllm", "sglang")
    scheme = recipe.scheme("experts_gate_up")
    # SGLang's experts are symmetric: its CompressedTensorsWNA16MoE refuses zero points.
    symmetric = isinstance(scheme, Scheme) and scheme.symmetric
    return ("vllm", "sglang") if symmetric else ("vllm",)
