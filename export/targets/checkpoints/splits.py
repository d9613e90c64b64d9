"""How a quantized checkpoint can be split over GPUs: what shapes allow, and what each GPU holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trtcoder.calib.storage.float8 import BLOCK
from trtcoder.export.targets.checkpoints.deepseek_v2 import linear_shapes
from trtcoder.export.targets.checkpoints.exclusions import (
    ALIGNED,
    EXPERT_INNER,
    MARLIN_COLUMNS,
    MARLIN_ROWS,
    fp4_inner,
    fp4_misfit,
)
from trtcoder.export.targets.checkpoints.form import Form
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

# Linear modules whose rows, or whose columns, are cut by tensor parallelism; others stay whole.
BY_ROWS = ("q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")
BY_COLUMNS = ("o_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Split:
    """``tp`` GPUs share heads and dense widths, ``dp`` such groups have requests of their own.

    With ``expert_parallel`` each of the ``tp * dp`` GPUs has whole experts; otherwise each group
    has all of them, cut along their inner width.
    """

    tp: int
    dp: int = 1
    expert_parallel: bool = False

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tp * self.dp

    def __str__(self) -> str:
        parts = [f"TP {self.tp}"]
        if self.dp > 1:
            parts.append(f"DP {self.dp}")
        if self.expert_parallel:
            parts.append(f"EP {self.gpus}")
        return " x ".join(parts)


def problems(
    config: DeepseekV2Config, form: Form, group: int, excluded: Mapping[str, str], split: Split
) -> list[str]:
    """Return why servers would refuse a split; empty where they take it.

    Args:
        config: the model's configuration.
        form: how quantized modules are stored.
        group: weights that share a scale, where it packs int4.
        excluded: the modules that are not quantized.
        split: the split.
    """
    found = dict.fromkeys(_heads(config, split))
    for module, (rows, columns) in linear_shapes(config).items():
        if module in excluded:
            continue
        role = module.rpartition(".")[2]
        routed = ".mlp.experts." in module
        if routed and split.expert_parallel:
            continue
        rows = rows // split.tp if role in BY_ROWS else rows
        columns = columns // split.tp if role in BY_COLUMNS else columns
        where = "experts" if routed else _role(module)
        if form is Form.FP8_BLOCK and (rows % BLOCK or columns % BLOCK):
            found[f"{where}: [{rows}, {columns}] a GPU is not made of blocks of 128 x 128"] = None
        if form is Form.FP8_TENSOR and (rows % ALIGNED or columns % ALIGNED):
            found[f"{where}: [{rows}, {columns}] a GPU does not divide by {ALIGNED}"] = None
        inner = rows if role in BY_ROWS else columns
        if form is Form.NVFP4 and routed and inner % fp4_inner(config.moe_intermediate_size):
            step = fp4_inner(config.moe_intermediate_size)
            found[f"{where}: inner width {inner} a GPU is no multiple of {step}"] = None
        if form is Form.NVFP4 and not routed:
            reason = fp4_misfit(module, (rows, columns))
            found |= {} if reason is None else {f"{where}, a GPU: {reason}": None}
        if form is not Form.PACKED:
            continue
        if routed and inner % max(EXPERT_INNER, group):
            step = max(EXPERT_INNER, group)
            found[f"{where}: inner width {inner} a GPU is no multiple of {step}"] = None
        if not routed and (rows % MARLIN_ROWS or columns % max(MARLIN_COLUMNS, group)):
            step = max(MARLIN_COLUMNS, group)
            found[
                f"{where}: [{rows}, {columns}] a GPU; rows come in {MARLIN_ROWS}, columns in {step}"
            ] = None
    return list(found)


def weight_bytes(plan: WeightPlan, split: Split) -> int:
    """Return the bytes of weights on one GPU."""
    total = 0.0
    for weight in plan.declared.values():
        module = weight.name.rpartition(".")[0]
        if ".mlp.experts." in module:
            total += weight.nbytes / (split.gpus if split.expert_parallel else split.tp)
        elif module.rpartition(".")[2] in BY_ROWS + BY_COLUMNS:
            total += weight.nbytes / split.tp
        else:
            total += weight.nbytes
    return int(total)


def _heads(config: DeepseekV2Config, split: Split) -> Iterator[str]:
    if config.num_attention_heads % split.tp:
        yield f"{config.num_attention_heads} heads do not divide by TP {split.tp}"
    if split.expert_parallel and config.n_routed_experts % split.gpus:
        yield f"{config.n_routed_experts} experts do not divide by EP {split.gpus}"


def _role(module: str) -> str:
    return module.split(".", 3)[-1]
