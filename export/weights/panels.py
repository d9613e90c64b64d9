"""Matrices as our own kernels take them: in panels of sixteen rows (`calib.storage.panels`).

Both graphs of an engine read them so: our operators as they are, ONNX Runtime's own behind a
transposition that it does once, when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from trtcoder.calib.storage.panels import (
    BLOCKS,
    PANEL,
    alternating,
    float_panels,
    lengthened,
    panel_shape,
    to_panels,
)
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.calib.storage.storage import Storage
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights import matrix as matrices
from trtcoder.export.weights.convert import Arrays, convert_exact, convert_integers
from trtcoder.export.weights.experts import (
    Expert,
    add_expert_step,
    add_matrices,
    padded_width,
)
from trtcoder.export.weights.matrix import Matrix, ranges
from trtcoder.export.weights.plan import Converted, DType, Part, StoredMatrix, Weight, WeightPlan


@dataclass(frozen=True, slots=True)
class PanelMatrix:
    """A matrix ``[rows, width]`` in panels, or ``count`` of them behind each other.

    Attributes:
        weights: codes, scales and, where the scheme has them, zero points; of float32 the values
            alone: ``[count, panels, *panel]``, without the first axis where there is one matrix.
        pair: two matrices of this form whose panels alternate, as gate and up do; the weights have
            an axis of 2 behind that of the panels.
    """

    weights: tuple[Weight, ...]
    scheme: Scheme
    rows: int
    width: int
    pair: bool = False
    count: int | None = None

    @property
    def leading(self) -> tuple[int, ...]:
        """The axes before those of a panel."""
        panels = (-(-self.rows // PANEL), *((2,) if self.pair else ()))
        return panels if self.count is None else (self.count, *panels)


def in_panels(scheme: Storage, recipe: Recipe) -> TypeGuard[Scheme]:
    """Return whether the kernels multiply matrices of this form in graphs of this recipe.

    With float32 matrices they do where they do so with all others. Elsewhere the threads are ONNX
    Runtime's, and a second pool that spins would take the cores from them.
    """
    if not isinstance(scheme, Scheme) or recipe.provider != "cpu" or recipe.activations is not None:
        return False
    if scheme.is_float:
        return recipe.accuracy_level == 4 or not recipe.has_integers
    return scheme.block_size in BLOCKS and recipe.accuracy_level == 4


def declare_panels(
    plan: WeightPlan,
    name: str,
    kind: str,
    activation: str,
    source: Matrix,
    scheme: Scheme,
    *,
    pair: bool = False,
) -> PanelMatrix:
    """Declare the weights that store ``source``, and the steps that fill them.

    ``activation`` is the name of the activation that it multiplies. With ``pair`` the source is
    two matrices of equal size, stacked.
    """
    rows = source.rows // 2 if pair else source.rows
    found = _declare(plan, name, kind, PanelMatrix((), scheme, rows, source.width, pair))
    plan.matrices[name] = StoredMatrix(source, activation, kind, scheme)
    firsts = (0, rows) if pair else (0,)
    panels = max(1, matrices.CHUNK_VALUES // source.width // len(firsts) // PANEL)
    for start, stop in ranges(rows, panels * PANEL):

        def produce(start: int = start, stop: int = stop) -> Converted:
            halves = [
                _converted(plan, name, scheme, first + start, first + stop) for first in firsts
            ]
            stored = _alternating(halves[0][0], halves[1][0]) if pair else halves[0][0]
            parts = _parts(found.weights, start // PANEL, stored)
            return Converted(parts, [record for _, record in halves])

        values = len(firsts) * (stop - start) * source.width
        fills = [weight.rows(start // PANEL, -(-stop // PANEL)) for weight in found.weights]
        plan.add_step(f"{name}[{start}:{stop}]", source.tensors, values, produce, fills)
    return found


def declare_panel_experts(
    plan: WeightPlan,
    name: str,
    activation: str,
    experts: Sequence[Expert],
    gate_up: Scheme,
    down: Scheme,
) -> tuple[PanelMatrix, PanelMatrix]:
    """Declare gate and up, and down, of all experts, and the steps that fill them.

    The arguments, the padding and what is raised are those of `experts.declare_experts`.
    """
    padded = padded_width(plan, name, experts[0], gate_up, down)
    hidden, count = experts[0].gate.width, len(experts)
    pairs = _declare(
        plan, f"{name}/gate_up", "experts_gate_up",
        PanelMatrix((), gate_up, padded, hidden, pair=True, count=count),
    )  # fmt: skip
    downs = _declare(
        plan, f"{name}/down", "experts_down",
        PanelMatrix((), down, hidden, padded, count=count),
    )  # fmt: skip
    for index, expert in enumerate(experts):
        names = add_matrices(plan, name, activation, index, expert, gate_up, down)

        def produce(index: int = index, names: tuple[str, str, str] = names) -> Converted:
            found = [
                _converted(plan, key, scheme)
                for key, scheme in zip(names, (gate_up, gate_up, down), strict=True)
            ]
            plan.quantizer.release(names[-1])
            gate, up, lowered = (stored for stored, _ in found)
            count = -(-padded // PANEL)
            gate, up = ([lengthened(each, count) for each in half] for half in (gate, up))
            both = _alternating(gate, up)
            parts = [
                *_parts(pairs.weights, index, both, one=True),
                *_parts(downs.weights, index, lowered, one=True),
            ]
            return Converted(parts, [record for _, record in found])

        add_expert_step(plan, name, index, expert, produce, [*pairs.weights, *downs.weights])
    return pairs, downs


def _declare(plan: WeightPlan, name: str, kind: str, form: PanelMatrix) -> PanelMatrix:
    """Declare the weights of a form."""
    leading, shape = form.leading, panel_shape(form.width, form.scheme)
    dtype = DType.FLOAT if form.scheme.is_float else DType.UINT8
    weights = [plan.declare(name, kind, dtype, [*leading, *shape.codes])]
    if shape.scales is not None:
        scales = [*leading, *shape.scales]
        weights.append(plan.declare(f"{name}/scales", kind, DType.FLOAT16, scales))
    if shape.zeros is not None:
        zeros = [*leading, *shape.zeros]
        weights.append(plan.declare(f"{name}/zero_points", kind, DType.UINT8, zeros))
    return replace(form, weights=tuple(weights))


def _converted(
    plan: WeightPlan, name: str, scheme: Scheme, start: int = 0, stop: int | None = None
) -> tuple[Arrays, TensorRecord]:
    """Return rows of a stored matrix in panels, as each weight of a `PanelMatrix` takes them.

    With them comes what storing them cost.
    """
    if scheme.is_float:
        values, record = convert_exact(plan, name, start, stop)
        return [float_panels(values)], record
    stored, record = convert_integers(plan, name, start, stop)
    panels = to_panels(stored, scheme)
    zeros = [] if panels.zero_points is None else [panels.zero_points]
    return [panels.packed, panels.scales, *zeros], record


def _alternating(first: Arrays, second: Arrays) -> Arrays:
    return [alternating(*halves) for halves in zip(first, second, strict=True)]


def _parts(weights: Iterable[Weight], start: int, stored: Arrays, one: bool = False) -> list[Part]:
    """Return a matrix in panels as parts of weights: from panel ``start`` on, or as one entry."""
    return [
        Part(weight.name, start, array.reshape(1 if one else -1, *weight.shape[1:]))
        for weight, array in zip(weights, stored, strict=True)
    ]
