"""Linear modules as Hugging Face checkpoints store them: as they are, float8, NVFP4 or int4.

Names and layouts are those that vLLM, SGLang, TensorRT-LLM and transformers read; docs/targets.md
says which reads what. A module's tensors begin with its name, such as
``model.layers.3.mlp.experts.17.up_proj``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage import nvfp4
from trtcoder.calib.storage.blocks import pack, unpack
from trtcoder.calib.storage.float8 import BLOCK, Float8
from trtcoder.calib.storage.record import Loss, TensorRecord
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.calib.storage.storage import Storage
from trtcoder.checkpoint.reader import widen
from trtcoder.export.weights import float8
from trtcoder.export.weights.convert import convert_floats, convert_integers, scaled_rows
from trtcoder.export.weights.matrix import CHUNK_VALUES, Matrix, ranges
from trtcoder.export.weights.plan import (
    Converted,
    DType,
    Part,
    Rows,
    StoredMatrix,
    Weight,
    WeightPlan,
)

Floats = NDArray[np.float32]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class Linear:
    """A module, and what its matrix is to the model.

    Attributes:
        module: its name in the checkpoint.
        name: the matrix' name in certificates, as the other targets have it.
        kind: its class, one of `trtcoder.calib.storage.record.CLASSES`.
        activation: the name of the activation that it multiplies; empty for a table.
        source: its rows ``[N, K]``.
    """

    module: str
    name: str
    kind: str
    activation: str
    source: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, N and K."""
        return self.source.rows, self.source.width


class StoredModule(Protocol):
    """A module's declared weights, and how rows of it become parts of them."""

    @property
    def linear(self) -> Linear:
        """The module."""

    def fills(self, start: int, stop: int) -> list[Rows]:
        """Return what `make` fills of the weights for rows ``start`` up to ``stop``."""

    def make(self, start: int, stop: int) -> Converted:
        """Convert rows; a range begins at a multiple of 128."""


class Kept:
    """``weight`` ``[N, K]`` in bfloat16 or float16: the values nearest to the checkpoint's.

    Attributes:
        linear: the module.
        weight: what is stored of it.
    """

    def __init__(self, plan: WeightPlan, linear: Linear, dtype: DType = DType.BFLOAT16) -> None:
        self.linear = linear
        self._plan = plan
        _note(plan, linear, FLOAT32)
        self.weight = plan.declare(f"{linear.module}.weight", linear.kind, dtype, linear.shape)

    def fills(self, start: int, stop: int) -> list[Rows]:
        """Return the rows themselves."""
        return [self.weight.rows(start, stop)]

    def make(self, start: int, stop: int) -> Converted:
        """Copy rows, or round them."""
        linear, quantizer = self.linear, self._plan.quantizer
        stored = self._plan.matrices[linear.name]
        values: NDArray[np.generic] = (
            scaled_rows(quantizer, stored, start, stop)
            if quantizer.rescales
            else linear.source.stored(start, stop)
        )
        part, record = kept(self.weight, linear.name, values, start)
        return Converted([part], [record])


class BlockFloat8:
    """Float8 with a scale for each 128 x 128 weights, as DeepSeek-V3 is published.

    ``weight`` E4M3 ``[N, K]`` and ``weight_scale_inv`` float32 ``[ceil N / 128, ceil K / 128]``,
    what the codes are multiplied with.
    """

    def __init__(self, plan: WeightPlan, linear: Linear, scheme: Float8) -> None:
        self.linear = linear
        self._plan, self._scheme = plan, scheme
        _note(plan, linear, scheme)
        rows, width = linear.shape
        self._codes = plan.declare(
            f"{linear.module}.weight", linear.kind, DType.FLOAT8, [rows, width]
        )
        self._scales = plan.declare(
            f"{linear.module}.weight_scale_inv",
            linear.kind,
            DType.FLOAT,
            scheme.scale_shape(rows, width),
        )

    def fills(self, start: int, stop: int) -> list[Rows]:
        """Return the rows of the codes and of their scales."""
        return [
            self._codes.rows(start, stop),
            self._scales.rows(start // BLOCK, -(-stop // BLOCK)),
        ]

    def make(self, start: int, stop: int) -> Converted:
        """Round rows to nearest."""
        matrix, record = float8.convert(self._plan, self.linear.name, self._scheme, start, stop)
        return Converted(
            [
                Part(self._codes.name, start, matrix.codes),
                Part(self._scales.name, start // BLOCK, matrix.scales),
            ],
            [record],
        )


class TensorFloat8:
    """Float8 with one scale, in the form of NVIDIA's ModelOpt.

    ``weight`` E4M3 ``[N, K]``, and the float32 numbers ``weight_scale``, what the codes are
    multiplied with, and ``input_scale``, what activations are divided by before they are rounded.
    """

    def __init__(
        self,
        plan: WeightPlan,
        linear: Linear,
        scheme: Float8,
        largest: Callable[[], float],
        input_scale: Callable[[], Floats],
    ) -> None:
        """``largest`` returns the magnitude that the scale must reach, ``input_scale`` ``[1]``."""
        self.linear = linear
        self._plan, self._scheme = plan, scheme
        self._largest, self._input_scale = largest, input_scale
        _note(plan, linear, scheme)
        self._codes = plan.declare(
            f"{linear.module}.weight", linear.kind, DType.FLOAT8, linear.shape
        )
        self._scale, self._input = (
            plan.declare(f"{linear.module}.{role}", kind, DType.FLOAT, [1])
            for role, kind in (("weight_scale", linear.kind), ("input_scale", "activations"))
        )

    def fills(self, start: int, stop: int) -> list[Rows]:
        """Return the rows of the codes; with the first ones, the scales."""
        scales = [] if start else [self._scale.rows(), self._input.rows()]
        return [self._codes.rows(start, stop), *scales]

    def make(self, start: int, stop: int) -> Converted:
        """Round rows to nearest."""
        matrix, record = float8.convert(
            self._plan, self.linear.name, self._scheme, start, stop, self._largest()
        )
        parts = [Part(self._codes.name, start, matrix.codes)]
        if not start:
            parts.append(Part(self._scale.name, 0, matrix.scales))
            parts.append(Part(self._input.name, 0, self._input_scale()))
        return Converted(parts, [record])


class BlockFloat4:
    """NVFP4 in the form of NVIDIA's ModelOpt.

    ``weight`` uint8 ``[N, K / 2]``, two E2M1 codes a byte, the first in the low half;
    ``weight_scale`` E4M3 ``[N, K / 16]``; and the float32 numbers ``weight_scale_2``, what a code
    is multiplied with beside its block's scale, and ``input_scale``, the same for activations.
    """

    def __init__(
        self,
        plan: WeightPlan,
        linear: Linear,
        scheme: nvfp4.Nvfp4,
        largest: Callable[[], float],
        input_scale: Callable[[], Floats],
    ) -> None:
        """``largest`` returns the magnitude that the scale must reach, ``input_scale`` ``[1]``."""
        self.linear = linear
        self._plan = plan
        self._largest, self._input_scale = largest, input_scale
        _note(plan, linear, scheme)
        rows, width = linear.shape
        module, kind = linear.module, linear.kind
        self._packed = plan.declare(f"{module}.weight", kind, DType.UINT8, [rows, width // 2])
        self._scales = plan.declare(
            f"{module}.weight_scale", kind, DType.FLOAT8, [rows, width // nvfp4.GROUP]
        )
        self._scale, self._input = (
            plan.declare(f"{module}.{role}", kind, DType.FLOAT, [1])
            for role, kind in (("weight_scale_2", kind), ("input_scale", "activations"))
        )

    def fills(self, start: int, stop: int) -> list[Rows]:
        """Return the rows of codes and of blocks' scales; with the first ones, the two numbers."""
        numbers = [] if start else [self._scale.rows(), self._input.rows()]
        return [self._packed.rows(start, stop), self._scales.rows(start, stop), *numbers]

    def make(self, start: int, stop: int) -> Converted:
        """Round rows to nearest."""
        name, largest = self.linear.name, self._largest()
        matrix, record = convert_floats(
            self._plan,
            name,
            start,
            stop,
            lambda weights: nvfp4.quantize(weights, name, largest),
            nvfp4.dequantize,
        )
        parts = [
            Part(self._packed.name, start, matrix.packed),
            Part(self._scales.name, start, matrix.scales),
        ]
        if not start:
            parts.append(Part(self._scale.name, 0, matrix.scale))
            parts.append(Part(self._input.name, 0, self._input_scale()))
        return Converted(parts, [record])


class Packed:
    """Int4 in the form ``pack-quantized`` of compressed-tensors.

    ``weight_packed`` int32 ``[N, K / 8]``: eight codes each, from the lowest bits up, the code of 0
    being 8; ``weight_scale`` bfloat16 ``[N, K / group]``; ``weight_shape`` int64 ``[2]``; and with
    zero points ``weight_zero_point`` int32 ``[N / 8, K / group]``, packed along N.
    """

    def __init__(self, plan: WeightPlan, linear: Linear, scheme: Scheme) -> None:
        self.linear = linear
        self._plan, self._scheme = plan, scheme
        _note(plan, linear, scheme)
        (rows, width), kind = linear.shape, linear.kind
        groups = scheme.blocks(width)
        shapes = {
            "weight_packed": (DType.INT32, [rows, width // 8]),
            "weight_scale": (DType.BFLOAT16, [rows, groups]),
            "weight_shape": (DType.INT64, [2]),
        }
        if not scheme.symmetric:
            shapes["weight_zero_point"] = (DType.INT32, [rows // 8, groups])
        self._weights = {
            role: plan.declare(f"{linear.module}.{role}", kind, dtype, shape)
            for role, (dtype, shape) in shapes.items()
        }

    def fills(self, start: int, stop: int) -> list[Rows]:
        """Return the rows of codes, scales and zero points; with the first ones, the shape."""
        found = []
        for role, weight in self._weights.items():
            if role == "weight_zero_point":
                found.append(weight.rows(start // 8, stop // 8))
            elif role != "weight_shape":
                found.append(weight.rows(start, stop))
            elif not start:
                found.append(weight.rows())
        return found

    def make(self, start: int, stop: int) -> Converted:
        """Choose codes and scales of rows by the plan's quantizer."""
        matrix, record = convert_integers(self._plan, self.linear.name, start, stop)
        codes = np.ascontiguousarray(matrix.packed.reshape(len(matrix.packed), -1))
        made: dict[str, tuple[int, NDArray[np.generic]]] = {
            "weight_packed": (start, codes.view("<i4")),
            "weight_scale": (start, matrix.scales.astype(BFLOAT16).view(np.uint16)),
        }
        if not start:
            made["weight_shape"] = (0, np.array(self.linear.shape, np.int64))
        if matrix.zero_points is not None:
            groups = matrix.scales.shape[1]
            zeros = unpack(matrix.zero_points, self._scheme.bits, groups)
            across = np.ascontiguousarray(pack(np.ascontiguousarray(zeros.T), self._scheme.bits))
            packed = np.ascontiguousarray(across.view("<i4").T)
            made["weight_zero_point"] = (start // 8, packed)
        parts = [
            Part(self._weights[role].name, first, value) for role, (first, value) in made.items()
        ]
        return Converted(parts, [record])


def declare_parameter(
    plan: WeightPlan,
    tensor: str,
    name: str,
    kind: str,
    shape: Sequence[int],
    read: Callable[[], Floats],
    source: str | None = None,
    dtype: DType = DType.BFLOAT16,
) -> Weight:
    """Declare a tensor that ``read`` returns whole, kept in 16 bits, and what fills it.

    ``source`` is the checkpoint's tensor where ``tensor`` is no name of one.
    """
    weight = plan.declare(tensor, kind, dtype, shape)

    def produce() -> Converted:
        part, record = kept(weight, name, read(), 0)
        return Converted([part], [record])

    plan.add_step(name, (source or tensor,), int(np.prod(shape)), produce, [weight.rows()])
    return weight


def add_steps(plan: WeightPlan, module: StoredModule) -> None:
    """Add the steps that fill one module, a range of rows each."""
    linear = module.linear
    for start, stop in _chunks(linear.source):

        def produce(start: int = start, stop: int = stop) -> Converted:
            return module.make(start, stop)

        values = (stop - start) * linear.source.width
        plan.add_step(
            f"{linear.name}[{start}:{stop}]",
            linear.source.tensors,
            values,
            produce,
            module.fills(start, stop),
        )


def add_joint_step(plan: WeightPlan, key: str, modules: Sequence[StoredModule]) -> None:
    """Add one step that fills modules one after another, such as those of an expert."""

    def produce() -> Converted:
        parts, records = [], []
        for module in modules:
            made = module.make(0, module.linear.source.rows)
            parts += made.parts
            records += made.records
        plan.quantizer.release(modules[-1].linear.name)
        return Converted(parts, records)

    plan.add_step(
        key,
        tuple(tensor for module in modules for tensor in module.linear.source.tensors),
        sum(module.linear.source.rows * module.linear.source.width for module in modules),
        produce,
        [rows for module in modules for rows in module.fills(0, module.linear.source.rows)],
    )


def kept(
    weight: Weight, name: str, values: NDArray[np.generic], start: int
) -> tuple[Part, TensorRecord]:
    """Return values as ``weight`` stores them, from row ``start`` on, and what that cost.

    ``values`` are float32, or uint16 for the bits of bfloat16.
    """
    half = weight.dtype is DType.FLOAT16
    stored: NDArray[np.generic]
    if values.dtype == np.uint16 and not half:
        wide = widen(values)
        stored, loss = values, Loss(float(np.vdot(wide, wide)), 0.0, 0.0)
    else:
        wide = widen(values)
        with np.errstate(over="ignore"):  # the writer refuses what is not finite
            rounded = wide.astype(np.float16 if half else BFLOAT16)
        stored = rounded if half else rounded.view(np.uint16)
        loss = Loss.between(wide, rounded.astype(np.float32))
    record = TensorRecord(
        name, weight.kind, "fp16" if half else "bf16", "rtn" if loss.squared_error else "exact",
        values.size, 2 * values.size, loss.squared_weight, loss.squared_error, loss.max_error,
    )  # fmt: skip
    return Part(weight.name, start, stored), record


def _note(plan: WeightPlan, linear: Linear, scheme: Storage) -> None:
    plan.matrices[linear.name] = StoredMatrix(linear.source, linear.activation, linear.kind, scheme)


def _chunks(source: Matrix) -> Iterator[tuple[int, int]]:
    """Return row ranges that begin at a multiple of 128."""
    return ranges(source.rows, max(1, CHUNK_VALUES // source.width // BLOCK) * BLOCK)
