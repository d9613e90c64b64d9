"""Checkpoint rows as they are stored: exact, or in integer blocks.

Scales are stored as float16, and what keeps the checkpoint's values in the checkpoint's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.blocks import QuantizedMatrix, dequantize
from trtcoder.calib.storage.record import Loss, TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.weights.matrix import Matrix
from trtcoder.export.weights.plan import (
    Converted,
    DType,
    Part,
    StoredMatrix,
    Weight,
    WeightPlan,
)

Arrays = list[NDArray[np.generic]]


class _Stored(Protocol):
    """A matrix in a floating-point format of few bits."""

    @property
    def nbytes(self) -> int:
        """Stored bytes."""


_Matrix = TypeVar("_Matrix", bound=_Stored)


def declare_parameter(
    plan: WeightPlan,
    name: str,
    kind: str,
    shape: Sequence[int],
    tensors: tuple[str, ...],
    stored_type: str,
    read: Callable[[], NDArray[np.float32]],
) -> Weight:
    """Declare a weight that ``read`` returns whole, kept as it is, and the step that fills it.

    ``stored_type`` is the checkpoint's: BF16, F16 or F32.
    """
    dtype = DType("F32" if plan.quantizer.rescales else stored_type)
    weight = plan.declare(name, kind, dtype, shape)

    def produce() -> Converted:
        values = read()
        record = TensorRecord(
            name, kind, dtype.name.lower(), "exact", values.size, weight.nbytes,
            squared_weight=float(np.vdot(values, values)),
        )  # fmt: skip
        return Converted([Part(name, 0, _narrow(values, dtype))], [record])

    plan.add_step(name, tensors, int(np.prod(shape)), produce, [weight.rows()])
    return weight


def declare_matrix(
    plan: WeightPlan,
    name: str,
    kind: str,
    activation: str,
    source: Matrix,
    scheme: Scheme,
    flat: bool = False,
) -> list[Weight]:
    """Declare the weights that store ``source``, as `declare_rows` does, and what fills them.

    ``activation`` is the name of the activation that it multiplies; empty for a table.
    """
    weights = declare_rows(plan, name, kind, [source.rows], source.width, scheme, flat)
    plan.matrices[name] = StoredMatrix(source, activation, kind, scheme)
    for start, stop in source.chunks():

        def produce(start: int = start, stop: int = stop) -> Converted:
            arrays, record = convert(plan, name, start, stop, flat)
            parts = [
                Part(weight.name, start, array)
                for weight, array in zip(weights, arrays, strict=True)
            ]
            return Converted(parts, [record])

        values = (stop - start) * source.width
        fills = [weight.rows(start, stop) for weight in weights]
        plan.add_step(f"{name}[{start}:{stop}]", source.tensors, values, produce, fills)
    return weights


def declare_rows(
    plan: WeightPlan,
    name: str,
    kind: str,
    leading: Sequence[int],
    width: int,
    scheme: Scheme,
    flat: bool = False,
) -> list[Weight]:
    """Declare the weights of rows ``leading`` of ``width`` values each, as `convert` makes them.

    That is the matrix, or codes, scales and, where the scheme has them, zero points. Codes are
    ``[*leading, blocks, bytes a block]``, or ``[*leading, bytes a row]`` when ``flat``.
    """
    if scheme.is_float:
        return [plan.declare(name, kind, DType.FLOAT, [*leading, width])]
    blocks = scheme.blocks(width)
    blob = scheme.block_size * scheme.bits // 8
    shape = [*leading, blocks * blob] if flat else [*leading, blocks, blob]
    weights = [
        plan.declare(name, kind, DType.UINT8, shape),
        plan.declare(f"{name}/scales", kind, DType.FLOAT16, [*leading, blocks]),
    ]
    if not scheme.symmetric:
        packed = -(-blocks * scheme.bits // 8)
        weights.append(plan.declare(f"{name}/zero_points", kind, DType.UINT8, [*leading, packed]))
    return weights


def convert(
    plan: WeightPlan,
    name: str,
    start: int = 0,
    stop: int | None = None,
    flat: bool = False,
) -> tuple[Arrays, TensorRecord]:
    """Return rows of the stored matrix ``name`` as `declare_rows` wants them, and their cost."""
    scheme = plan.matrices[name].scheme
    if not isinstance(scheme, Scheme):
        raise BuildError(f"{name}: {scheme} is not converted here but in weights.float8")
    if not scheme.is_float:
        matrix, record = convert_integers(plan, name, start, stop)
        rows = len(matrix.packed)
        arrays: Arrays = [matrix.packed.reshape(rows, -1) if flat else matrix.packed]
        arrays.append(matrix.scales)
        if matrix.zero_points is not None:
            arrays.append(matrix.zero_points)
        return arrays, record
    exact, record = convert_exact(plan, name, start, stop)
    return [exact], record


def convert_exact(
    plan: WeightPlan, name: str, start: int = 0, stop: int | None = None
) -> tuple[NDArray[np.float32], TensorRecord]:
    """Return rows of the stored matrix ``name``, whose scheme is float32, and their cost."""
    stored = plan.matrices[name]
    stop = stored.source.rows if stop is None else stop
    exact = scaled_rows(plan.quantizer, stored, start, stop)
    return exact, TensorRecord(
        name, stored.kind, str(stored.scheme), "exact", exact.size, exact.nbytes,
        squared_weight=float(np.vdot(exact, exact)),
    )  # fmt: skip


def convert_integers(
    plan: WeightPlan, name: str, start: int = 0, stop: int | None = None
) -> tuple[QuantizedMatrix, TensorRecord]:
    """Return rows of the stored matrix ``name``, whose scheme is of integers, and their cost."""
    stored, quantizer = plan.matrices[name], plan.quantizer
    kind, scheme, source = stored.kind, stored.scheme, stored.source
    if not isinstance(scheme, Scheme) or scheme.is_float:
        raise BuildError(f"{name}: {scheme} has no integers")
    stop = source.rows if stop is None else stop
    weights = (
        scaled_rows(quantizer, stored, start, stop)
        if quantizer.calibrates
        else source.stored(start, stop)
    )
    found = quantizer.quantize(name, stored.activation, weights, scheme, start)
    loss, matrix = found.loss, found.matrix
    if quantizer.calibrates or loss is None:
        values = dequantize(matrix, scheme, source.width)
        restored = unscaled_rows(quantizer, stored, start, stop, values)
        quantizer.keep(name, start, restored)
        loss = Loss.between(source.read(start, stop), restored)
    return matrix, TensorRecord(
        name, kind, str(scheme), found.method, (stop - start) * source.width, matrix.nbytes,
        loss.squared_weight, loss.squared_error, loss.max_error, found.fallback,
    )  # fmt: skip


def convert_floats(
    plan: WeightPlan,
    name: str,
    start: int,
    stop: int | None,
    quantize: Callable[[NDArray[np.float32]], _Matrix],
    dequantize: Callable[[_Matrix], NDArray[np.float32]],
    fallback: str | None = None,
) -> tuple[_Matrix, TensorRecord]:
    """Return rows of the stored matrix ``name`` as ``quantize`` rounds them, and their cost.

    ``dequantize`` gives what these stand for, float32 ``[N, K]``; ``fallback`` goes into the
    record.
    """
    stored, quantizer = plan.matrices[name], plan.quantizer
    stop = stored.source.rows if stop is None else stop
    weights = scaled_rows(quantizer, stored, start, stop)
    matrix = quantize(weights)
    restored = dequantize(matrix)
    if quantizer.rescales:
        weights = stored.source.read(start, stop)
        restored = unscaled_rows(quantizer, stored, start, stop, restored)
    quantizer.keep(name, start, restored)
    loss = Loss.between(weights, restored)
    return matrix, TensorRecord(
        name, stored.kind, str(stored.scheme), "rtn", weights.size, matrix.nbytes,
        loss.squared_weight, loss.squared_error, loss.max_error, fallback,
    )  # fmt: skip


def scaled_rows(
    quantizer: Quantizer, stored: StoredMatrix, start: int, stop: int
) -> NDArray[np.float32]:
    """Return rows of a matrix as they are stored: between two scaled activations.

    See `Quantizer` for these scales.
    """
    values = stored.source.read(start, stop)
    for place, made, taken in _scales(quantizer, stored, start, stop):
        if made is not None:
            values[place] /= made
        if taken is not None:
            values[place] *= taken
    return values


def unscaled_rows(
    quantizer: Quantizer, stored: StoredMatrix, start: int, stop: int, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Undo the scales of `scaled_rows`."""
    values = values.copy()
    for place, made, taken in _scales(quantizer, stored, start, stop):
        if taken is not None:
            values[place] /= taken
        if made is not None:
            values[place] *= made
    return values


def _scales(
    quantizer: Quantizer, stored: StoredMatrix, start: int, stop: int
) -> Iterator[tuple[slice, NDArray[np.float32] | None, NDArray[np.float32] | None]]:
    """Return the places of a matrix' pieces, with the scales of what each makes and takes.

    These are ``[n, 1]`` and ``[K]``, or None for ones.
    """
    taken = quantizer.input_scale(stored.activation)
    for piece, rows, place in stored.source.parts(start, stop):
        made = None if piece.makes is None else quantizer.input_scale(piece.makes)
        yield (
            place,
            None if made is None else made[piece.chosen(rows), None],
            taken if taken is None or piece.columns is None else taken[piece.columns],
        )


def _narrow(values: NDArray[np.float32], dtype: DType) -> NDArray[np.generic]:
    """Return float32 values in a type that holds them exactly."""
    if dtype == DType.BFLOAT16:
        return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(dtype.numpy)
