"""Which modules stay in bfloat16, each with its reason: the one table that writers go by.

A server loads a checkpoint only if it expects just these modules to be quantized. It fuses some,
permutes rows of others, and refuses shapes that its kernels do not take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtcoder.calib.storage.float8 import BLOCK
from trtcoder.errors import BuildError
from trtcoder.export.targets.checkpoints.form import FUSED_ROWS, Form

# What Marlin, vLLM's and SGLang's kernel for packed int4, takes at least (vLLM,
# quantization/utils/marlin_utils.py): rows and columns of a linear layer, and for experts a hidden
# width of multiples of 128 and an inner one of multiples of 64 and of the group.
MARLIN_ROWS, MARLIN_COLUMNS = 64, 128
EXPERT_INNER = 64
# What scaled float8 matmuls of CUDA take.
ALIGNED = 16
# What matmuls of NVFP4 take: rows and columns of whole 16 bytes, and along a row four blocks, which
# is the tile of their scales. vLLM refuses experts whose gate and up, both together, have rows that
# are no multiple of 128.
FP4_ROWS, FP4_COLUMNS = 32, 64
FP4_INNER = FUSED_ROWS // 2


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Modules whose names end with ``suffix``, and why they stay as they are."""

    suffix: str
    reason: str


ALWAYS = (
    Exclusion(
        "lm_head",
        "servers multiply with the head in bfloat16, and rounding it costs more than all else",
    ),
    Exclusion(
        ".mlp.gate", "the router chooses experts, in float32; rounded it would choose others"
    ),
    Exclusion(
        ".self_attn.kv_b_proj",
        "servers fold it into queries and outputs; TensorRT-LLM does so without its scales",
    ),
    Exclusion(
        ".self_attn.kv_a_proj_with_mqa",
        "TensorRT-LLM permutes its rotary rows, and its 576 rows are 4.5 blocks of 128, which "
        "transformers reads with wrong scales and vLLM refuses",
    ),
    Exclusion(
        ".self_attn.q_a_proj",
        "vLLM and SGLang fuse it with kv_a_proj_with_mqa: both are quantized or neither",
    ),
)


def excluded(shapes: Mapping[str, tuple[int, int]], form: Form, group: int) -> dict[str, str]:
    """Return the modules that stay in bfloat16, with the reason.

    Args:
        shapes: rows and columns of each linear module.
        form: how the others are stored.
        group: weights that share a scale, where it packs int4.

    Raises:
        BuildError: the routed experts cannot be stored in this form; servers want all of them so.
    """
    found: dict[str, str] = {}
    for module, shape in shapes.items():
        always = next((each for each in ALWAYS if module.endswith(each.suffix)), None)
        reason = always.reason if always else _misfit(module, shape, form, group)
        if ".mlp.experts." in module:
            refuse_experts(module, shape, form, group)
        elif reason is not None:
            found[module] = reason
    for module, reason in list(found.items()):
        # gate and up are one matrix to servers, and an MLP is stored in one way.
        prefix, _, role = module.rpartition(".")
        if role in ("gate_proj", "up_proj", "down_proj"):
            for other in (f"{prefix}.{each}_proj" for each in ("gate", "up", "down")):
                found.setdefault(other, f"{role} of the same MLP stays: {reason}")
    return {module: found[module] for module in shapes if module in found}


def refuse_experts(module: str, shape: tuple[int, int], form: Form, group: int) -> None:
    """Raise BuildError where an expert's matrix cannot be stored in a form."""
    rows, columns = shape
    if form is Form.FP8_BLOCK and (rows % BLOCK or columns % BLOCK):
        raise BuildError(
            f"{module}: [{rows}, {columns}] is not made of whole blocks of 128 x 128, and servers "
            "want all experts quantized; use --fp8-scales tensor"
        )
    if form is Form.FP8_TENSOR and (rows % ALIGNED or columns % ALIGNED):
        raise BuildError(
            f"{module}: [{rows}, {columns}] does not divide by {ALIGNED}, which float8 matmuls "
            "want, and servers want all experts quantized; use --target onnx"
        )
    hidden, inner = (columns, rows) if not module.endswith("down_proj") else (rows, columns)
    if form is Form.NVFP4 and (hidden % FP4_COLUMNS or inner % FP4_INNER):
        fits = not (rows % ALIGNED or columns % ALIGNED)
        raise BuildError(
            f"{module}: experts of {hidden} x {inner} do not fit NVFP4: the hidden width must be a "
            f"multiple of {FP4_COLUMNS}, the inner one of {FP4_INNER}, and servers want all "
            f"experts quantized; "
            f"use {'--weights fp8 --fp8-scales tensor' if fits else '--target onnx'}"
        )
    if form is not Form.PACKED:
        return
    step = max(EXPERT_INNER, group)
    if hidden % MARLIN_COLUMNS or inner % step:
        fitting = [size for size in (128, 64, 32) if not inner % max(EXPERT_INNER, size)]
        remedy = f"use --block-size {fitting[0]}" if fitting else "use --target onnx"
        raise BuildError(
            f"{module}: experts of {hidden} x {inner} do not fit groups of {group}: the hidden "
            f"width must be a multiple of {MARLIN_COLUMNS}, the inner one of {step}; "
            f"{'use --target onnx' if hidden % MARLIN_COLUMNS else remedy}"
        )


def _misfit(module: str, shape: tuple[int, int], form: Form, group: int) -> str | None:
    """Return why a matrix of this shape cannot be stored in a form; None where it can."""
    rows, columns = shape
    if form is Form.FP8_BLOCK and (rows % BLOCK or columns % BLOCK):
        return f"[{rows}, {columns}] is not made of whole blocks of 128 x 128"
    if form is Form.FP8_TENSOR and (rows % ALIGNED or columns % ALIGNED):
        return f"[{rows}, {columns}] does not divide by {ALIGNED}, which float8 matmuls want"
    if form is Form.NVFP4:
        return fp4_misfit(module, shape)
    if form is Form.PACKED and (rows % MARLIN_ROWS or columns % max(MARLIN_COLUMNS, group)):
        return (
            f"[{rows}, {columns}]: the kernels for packed int4 want rows in multiples of "
            f"{MARLIN_ROWS} and columns of {max(MARLIN_COLUMNS, group)}"
        )
    return None


def fp4_misfit(module: str, shape: tuple[int, int]) -> str | None:
    """Return why NVFP4 cannot store a matrix, or a GPU's share of one; None where it can.

    Routed experts have rules of their own.
    """
    rows, columns = shape
    if rows % FP4_ROWS or columns % FP4_COLUMNS:
        return (
            f"[{rows}, {columns}]: matmuls of NVFP4 want rows in multiples of {FP4_ROWS} and "
            f"columns of {FP4_COLUMNS}"
        )
    if module.endswith(("gate_proj", "up_proj")) and rows % FUSED_ROWS:
        return (
            f"[{rows}, {columns}]: TensorRT-LLM joins gate and up with scales padded to "
            f"{FUSED_ROWS} rows each, and would read those of other rows"
        )
    return None


def fp4_inner(expert_width: int) -> int:
    """Return what the inner width of experts must be a multiple of on a GPU."""
    return FP4_INNER if expert_width % FUSED_ROWS else FUSED_ROWS


def summary(found: Mapping[str, str]) -> dict[str, str]:
    """Return a table of excluded modules, layers and experts taken together."""
    return {role(module): reason for module, reason in found.items()}


def role(module: str) -> str:
    """Return a module's name with ``*`` for the layer's number."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def roles(modules: Iterable[str]) -> list[str]:
    """Return the roles of modules, each once, in order."""
    return list(dict.fromkeys(map(role, modules)))
