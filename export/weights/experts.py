"""Experts as fused kernels take them: stacked, gate and up interleaved row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trtcoder.calib.storage.record import TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.calib.storage.storage import Storage
from trtcoder.errors import BuildError
from trtcoder.export.weights.convert import Arrays, convert, declare_rows
from trtcoder.export.weights.matrix import Matrix
from trtcoder.export.weights.plan import Converted, Part, StoredMatrix, Weight, WeightPlan


@dataclass(frozen=True, slots=True)
class Expert:
    """One routed expert: gate and up ``[I, H]``, down ``[H, I]``."""

    gate: Matrix
    up: Matrix
    down: Matrix


def expert_product(name: str, index: int) -> str:
    """Return the name of the activation that an expert's down projection multiplies."""
    return f"{name}/product[{index}]"


def declare_experts(
    plan: WeightPlan,
    name: str,
    activation: str,
    experts: Sequence[Expert],
    gate_up: Scheme,
    down: Scheme,
) -> tuple[list[Weight], list[Weight]]:
    """Declare the stacks ``[E, 2 I, H]`` and ``[E, H, I]`` and the steps that fill them.

    Each is a list as of `declare_rows`; I is padded to whole blocks with units that add nothing.
    ``activation`` is the name of the one that gate and up multiply.

    Raises:
        BuildError: the schemes do not go together, or the blocks do not divide H.
    """
    padded = padded_width(plan, name, experts[0], gate_up, down)
    hidden = experts[0].gate.width
    count = len(experts)
    fc1 = declare_rows(
        plan, f"{name}/gate_up", "experts_gate_up", [count, 2 * padded], hidden, gate_up, flat=True
    )
    fc2 = declare_rows(
        plan, f"{name}/down", "experts_down", [count, hidden], padded, down, flat=True
    )
    for index, expert in enumerate(experts):
        _add_step(plan, name, activation, index, expert, (fc1, fc2), (gate_up, down))
    return fc1, fc2


def padded_width(plan: WeightPlan, name: str, expert: Expert, gate_up: Scheme, down: Scheme) -> int:
    """Return I padded to whole blocks, and note in the plan what was padded.

    Raises:
        BuildError: the schemes do not go together, or the blocks do not divide H.
    """
    hidden, inner = expert.gate.width, expert.gate.rows
    if gate_up.is_float != down.is_float or gate_up.block_size != down.block_size:
        raise BuildError(
            f"{name}: gate and up are {gate_up}, down is {down}; the kernel wants both quantized "
            "in blocks of one size, or neither"
        )
    if not gate_up.is_float and hidden % gate_up.block_size:
        raise BuildError(
            f"{expert.gate.label}: width {hidden} does not divide by block "
            f"{gate_up.block_size}; use a smaller --block-size"
        )
    padded = inner if down.is_float else down.blocks(inner) * down.block_size
    if padded != inner:
        plan.pad(name, inner, down.block_size)
    return padded


def add_matrices(
    plan: WeightPlan,
    name: str,
    activation: str,
    index: int,
    expert: Expert,
    gate_up: Storage,
    down: Storage,
) -> tuple[str, str, str]:
    """Note the matrices of one expert in the plan; return the names of gate, up and down."""
    gate_name, up_name, down_name = (f"{name}/{role}[{index}]" for role in ("gate", "up", "down"))
    for key, source in ((gate_name, expert.gate), (up_name, expert.up)):
        plan.matrices[key] = StoredMatrix(source, activation, "experts_gate_up", gate_up)
    plan.matrices[down_name] = StoredMatrix(
        expert.down, expert_product(name, index), "experts_down", down
    )
    return gate_name, up_name, down_name


def add_expert_step(
    plan: WeightPlan,
    name: str,
    index: int,
    expert: Expert,
    produce: Callable[[], Converted],
    stacks: Iterable[Weight],
) -> None:
    """Add the step that fills one expert's share of the stacks."""
    tensors = expert.gate.tensors + expert.up.tensors + expert.down.tensors
    values = 3 * expert.gate.rows * expert.gate.width
    fills = [stack.rows(index, index + 1) for stack in stacks]
    plan.add_step(f"{name}/experts.{index}", tensors, values, produce, fills)


def _add_step(
    plan: WeightPlan,
    name: str,
    activation: str,
    index: int,
    expert: Expert,
    stacks: tuple[list[Weight], list[Weight]],
    schemes: tuple[Scheme, Scheme],
) -> None:
    matrices = add_matrices(plan, name, activation, index, expert, *schemes)
    inner, fc1, fc2 = expert.gate.rows, *stacks

    def produce() -> Converted:
        records: list[TensorRecord] = []
        found: list[Arrays] = []
        for key in matrices:
            arrays, record = convert(plan, key, flat=True)
            found.append(arrays)
            records.append(record)
        plan.quantizer.release(matrices[-1])
        gate_arrays, up_arrays, down_arrays = found
        parts = []
        for weight, gate, up in zip(fc1, gate_arrays, up_arrays, strict=True):
            rows = np.zeros((1, *weight.shape[1:]), gate.dtype)
            rows[0, 0 : 2 * inner : 2] = gate
            rows[0, 1 : 2 * inner : 2] = up
            parts.append(Part(weight.name, index, rows))
        parts += [
            Part(weight.name, index, array[None])
            for weight, array in zip(fc2, down_arrays, strict=True)
        ]
        return Converted(parts, records)

    add_expert_step(plan, name, index, expert, produce, [*fc1, *fc2])
