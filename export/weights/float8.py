"""Checkpoint rows as float8 stores them: codes, and scales of blocks or of a whole matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.float8 import (
    BLOCK,
    Float8,
    Float8Matrix,
    dequantize,
    largest_magnitude,
    quantize,
    scale_for,
)
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.export.weights.convert import convert_floats, scaled_rows
from trtcoder.export.weights.experts import Expert, add_expert_step, add_matrices, expert_product
from trtcoder.export.weights.matrix import CHUNK_VALUES, Matrix
from trtcoder.export.weights.plan import (
    Converted,
    DType,
    Part,
    StoredMatrix,
    Weight,
    WeightPlan,
)


@dataclass(frozen=True, slots=True)
class Float8Experts:
    """The stacked weights of float8 experts.

    Attributes:
        gate_up: codes ``[E, 2 I, H]``, gate and up interleaved row by row.
        gate_up_scales: ``[E]``, or ``[E, 2, blocks of I, blocks of H]``, gate before up.
        down: codes ``[E, H, I]``.
        down_scales: ``[E]``, or ``[E, blocks of H, blocks of I]``.
        product_scales: ``[E]``, what the down projections' inputs are rounded with; None unless
            activations are static.
    """

    gate_up: Weight
    gate_up_scales: Weight
    down: Weight
    down_scales: Weight
    product_scales: Weight | None


def declare_matrix(
    plan: WeightPlan, name: str, kind: str, activation: str, source: Matrix, scheme: Float8
) -> tuple[Weight, Weight]:
    """Declare ``source`` ``[N, K]`` and the steps that fill it; return its codes and scales.

    Codes are ``[N, K]``, scales float32 or float16 of `Float8.scale_shape`.
    """
    codes = plan.declare(name, kind, DType.FLOAT8, [source.rows, source.width])
    shape = scheme.scale_shape(source.rows, source.width)
    scales = plan.declare(f"{name}/scales", kind, _scale_dtype(scheme), shape)
    plan.matrices[name] = StoredMatrix(source, activation, kind, scheme)
    largest = None if scheme.per_block else functools.cache(lambda: largest_of(plan, name))
    for start, stop in _chunks(source):
        produce = functools.partial(_produce, plan, name, scheme, start, stop, largest)
        values = (stop - start) * source.width
        fills = [codes.rows(start, stop)]
        if scheme.per_block:
            fills.append(scales.rows(start // BLOCK, -(-stop // BLOCK)))
        elif start == 0:
            fills.append(scales.rows())
        plan.add_step(f"{name}[{start}:{stop}]", source.tensors, values, produce, fills)
    return codes, scales


def declare_experts(
    plan: WeightPlan, name: str, activation: str, experts: Sequence[Expert], scheme: Float8
) -> Float8Experts:
    """Declare the stacked experts and the steps that fill them.

    ``activation`` is the name of the one that gate and up multiply.
    """
    count, hidden, inner = len(experts), experts[0].gate.width, experts[0].gate.rows
    gate_up, down = f"{name}/gate_up", f"{name}/down"
    shapes: tuple[Sequence[int], Sequence[int]] = ([count], [count])
    if scheme.per_block:
        # By expert, as they would be for each matrix by itself.
        shapes = (
            [count, 2, *scheme.scale_shape(inner, hidden)],
            [count, *scheme.scale_shape(hidden, inner)],
        )
    classes = ("experts_gate_up", "experts_down")
    codes1 = plan.declare(gate_up, classes[0], DType.FLOAT8, [count, 2 * inner, hidden])
    codes2 = plan.declare(down, classes[1], DType.FLOAT8, [count, hidden, inner])
    scales1 = plan.declare(f"{gate_up}/scales", classes[0], DType.FLOAT, shapes[0])
    scales2 = plan.declare(f"{down}/scales", classes[1], DType.FLOAT, shapes[1])
    product_scales = None
    if scheme.activations == "static":
        product_scales = plan.declare(f"{down}/input_scale", "activations", DType.FLOAT, [count])
    found = Float8Experts(codes1, scales1, codes2, scales2, product_scales)
    for index, expert in enumerate(experts):
        _add_expert(plan, name, activation, index, expert, scheme, found)
    return found


def declare_activation_scale(
    plan: WeightPlan, name: str, activation: str, scheme: Float8
) -> Weight:
    """Declare the scale, ``[1]``, that an activation is rounded with, from calibration."""
    weight = plan.declare(name, "activations", _scale_dtype(scheme), [1])

    def produce() -> Converted:
        scale, _ = activation_scale(plan.quantizer, activation, scheme.scale_type)
        return Converted([Part(name, 0, _as_stored(scale, scheme))], [])

    plan.add_step(name, (), 0, produce, [weight.rows()])
    return weight


def activation_scale(
    quantizer: Quantizer, activation: str, scale_type: str = "float32"
) -> tuple[NDArray[np.float32], str | None]:
    """Return an activation's scale, float32 ``[1]``, and what is wrong with it (None if nothing).

    ``scale_type`` as of `trtcoder.calib.storage.float8.scale_for`.

    Raises:
        BuildError: the quantizer observes no activations.
    """
    largest = quantizer.amax(activation)
    if largest is None:
        return np.ones(1, np.float32), "no calibration token reached it: its input's scale is 1"
    return scale_for(largest, scale_type).reshape(1), None


def convert(
    plan: WeightPlan,
    name: str,
    scheme: Float8,
    start: int = 0,
    stop: int | None = None,
    largest: float | None = None,
    fallback: str | None = None,
) -> tuple[Float8Matrix, TensorRecord]:
    """Return rows of the stored matrix ``name``, and what storing them cost.

    ``largest`` as of `trtcoder.calib.storage.float8.quantize`; ``fallback`` goes into the record.
    """
    return convert_floats(
        plan,
        name,
        start,
        stop,
        lambda weights: quantize(weights, scheme, name, largest),
        dequantize,
        fallback,
    )


def largest_of(plan: WeightPlan, *matrices: str) -> float:
    """Return the largest magnitude of stored matrices, all of their rows."""
    found = 0.0
    for name in matrices:
        stored = plan.matrices[name]
        for start, stop in _chunks(stored.source):
            rows = scaled_rows(plan.quantizer, stored, start, stop)
            found = max(found, largest_magnitude(rows, name))
    return found


def _chunks(source: Matrix) -> Iterator[tuple[int, int]]:
    """Return row ranges that begin at a block."""
    size = max(1, CHUNK_VALUES // source.width // BLOCK) * BLOCK
    for start in range(0, source.rows, size):
        yield start, min(start + size, source.rows)


def _produce(
    plan: WeightPlan,
    name: str,
    scheme: Float8,
    start: int,
    stop: int,
    largest: Callable[[], float] | None,
) -> Converted:
    highest = None if largest is None else largest()
    matrix, record = convert(plan, name, scheme, start, stop, highest)
    parts: list[Part] = [Part(name, start, matrix.codes)]
    scales = _as_stored(matrix.scales, scheme)
    if scheme.per_block:
        parts.append(Part(f"{name}/scales", start // BLOCK, scales))
    elif start == 0:
        parts.append(Part(f"{name}/scales", 0, scales))
    return Converted(parts, [record])


def _scale_dtype(scheme: Float8) -> DType:
    return DType.FLOAT16 if scheme.scale_type == "float16" else DType.FLOAT


def _as_stored(scales: NDArray[np.float32], scheme: Float8) -> NDArray[np.floating]:
    """Return scales, which their type holds exactly, in `_scale_dtype`."""
    return scales.astype(np.float16) if _scale_dtype(scheme) is DType.FLOAT16 else scales


def _add_expert(
    plan: WeightPlan,
    name: str,
    activation: str,
    index: int,
    expert: Expert,
    scheme: Float8,
    stacks: Float8Experts,
) -> None:
    gate, up, down = add_matrices(plan, name, activation, index, expert, scheme, scheme)

    def produce() -> Converted:
        largest = None if scheme.per_block else largest_of(plan, gate, up)
        gate_matrix, gate_record = convert(plan, gate, scheme, largest=largest)
        up_matrix, up_record = convert(plan, up, scheme, largest=largest)
        parts, fallback = [], None
        if stacks.product_scales is not None:
            scale, fallback = activation_scale(plan.quantizer, expert_product(name, index))
            parts = [Part(stacks.product_scales.name, index, scale)]
        down_matrix, down_record = convert(plan, down, scheme, fallback=fallback)
        pair = [gate_matrix.codes, up_matrix.codes]
        codes = np.stack(pair, axis=1).reshape(1, -1, expert.gate.width)
        scales: NDArray[np.float32] = gate_matrix.scales
        down_scales = down_matrix.scales
        if scheme.per_block:
            scales = np.stack([gate_matrix.scales, up_matrix.scales])[None]
            down_scales = down_scales[None]
        parts += [
            Part(stacks.gate_up.name, index, codes),
            Part(stacks.gate_up_scales.name, index, scales),
            Part(stacks.down.name, index, down_matrix.codes[None]),
            Part(stacks.down_scales.name, index, down_scales),
        ]
        return Converted(parts, [gate_record, up_record, down_record])

    filled = (stacks.gate_up, stacks.gate_up_scales, stacks.down, stacks.down_scales)
    scales = () if stacks.product_scales is None else (stacks.product_scales,)
    add_expert_step(plan, name, index, expert, produce, [*filled, *scales])
