"""A thin layer over onnx-ir: named nodes with typed outputs, and weights that are filled later.

A graph declares its weights by name, type and shape, and adds the steps that will produce them.
Nothing is read while the graph is built, so a graph of any size is made in milliseconds and the
weights stream through `trtcoder.export.weights.writer` one step at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer, RoundToNearest
from trtcoder.calib.storage.float8 import Storage
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.errors import BuildError
from trtcoder.export.weights.matrix import Matrix

Dim = int | str
CONTRIB = "com.microsoft"
OPSET = 23

_NUMPY: dict[ir.DataType, np.dtype[Any]] = {
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.FLOAT16: np.dtype(np.float16),
    # NumPy has no bfloat16: its bits, the upper half of a float32, stand as uint16.
    ir.DataType.BFLOAT16: np.dtype(np.uint16),
    ir.DataType.UINT8: np.dtype(np.uint8),
    # Nor float8: its bits stand as uint8.
    ir.DataType.FLOAT8E4M3FN: np.dtype(np.uint8),
}


@dataclass(frozen=True, slots=True)
class Weight:
    """An initializer that lives in the data file; ``kind`` is its class (see `calib.record`)."""

    name: str
    kind: str
    dtype: ir.DataType
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The NumPy type of the stored bytes."""
        return _NUMPY[self.dtype]

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.numpy_dtype.itemsize

    @property
    def row_nbytes(self) -> int:
        """Bytes of one entry of the leading axis."""
        return self.nbytes // self.shape[0]


@dataclass(frozen=True, slots=True)
class Part:
    """Entries ``start`` up to ``start + len(value)`` of a weight's leading axis."""

    weight: str
    start: int
    value: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a step made: parts of weights, and what storing them so cost."""

    parts: list[Part]
    records: list[TensorRecord]


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of weight conversion.

    ``sources`` are the checkpoint tensors that it reads, ``values`` how many numbers of them.
    Steps of one ``stage`` (the embedding, each layer, the head) may run in any order and at the
    same time; stages run one after another.
    """

    key: str
    stage: int
    sources: tuple[str, ...]
    values: int
    produce: Callable[[], Converted]

    @property
    def nbytes(self) -> int:
        """Bytes that it reads from a bf16 checkpoint, for progress."""
        return 2 * self.values


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix of the data file.

    Attributes:
        source: where its rows come from.
        site: the name of the activation that it multiplies; empty for a table.
        kind: its class, one of `trtcoder.calib.storage.record.CLASSES`.
        scheme: how it is stored.
    """

    source: Matrix
    site: str
    kind: str
    scheme: Storage


class GraphBuilder:
    """Collects nodes, weights and steps of one graph.

    Attributes:
        quantizer: chooses stored values when steps run.
        layer: the decoder layer that is being declared; None before the first and after the last.
        stage: the stage of steps that are added now.
        matrices: the stored matrices by name.
        padded: widths that were padded to whole blocks, by role.
    """

    def __init__(self, name: str, quantizer: Quantizer | None = None) -> None:
        self.name = name
        self.quantizer: Quantizer = quantizer or RoundToNearest()
        self.layer: int | None = None
        self.stage = 0
        self.matrices: dict[str, StoredMatrix] = {}
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, Weight] = {}
        self.steps: list[Step] = []
        self.padded: dict[str, str] = {}
        self._weight_values: dict[str, ir.Value] = {}
        self._shared: dict[str, ir.Value] = {}
        self._constants: dict[str, ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        """Declare a graph input."""
        value = ir.val(name, dtype, list(shape))
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str) -> None:
        """Make ``value`` a graph output called ``name``."""
        value.name = name
        self.outputs.append(value)

    def weight(self, name: str, kind: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """Declare a weight of class ``kind``; some step must fill all of it."""
        if name in self.weights:
            raise BuildError(f"{name}: declared twice")
        self.weights[name] = Weight(name, kind, dtype, tuple(shape))
        value = ir.val(name, dtype, list(shape))
        self._weight_values[name] = value
        return value

    def once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """Return the value ``name`` that several layers take, made when it is first asked for."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def step(
        self, key: str, sources: tuple[str, ...], values: int, produce: Callable[[], Converted]
    ) -> None:
        """Add a step of the present stage."""
        self.steps.append(Step(key, self.stage, sources, values, produce))

    def constant(self, array: NDArray[np.generic], name: str) -> ir.Value:
        """Return a small constant, stored in the graph itself; equal names are one constant."""
        if name not in self._constants:
            tensor = ir.tensor(array, name=name)
            self._constants[name] = ir.Value(
                name=name,
                shape=ir.Shape(list(array.shape)),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        return self._constants[name]

    def ints(self, *values: int) -> ir.Value:
        """Return a constant int64 vector, for shapes and axes."""
        return self.constant(
            np.array(values, np.int64), f"ints/{'x'.join(str(value) for value in values)}"
        )

    def scalar(self, value: float) -> ir.Value:
        """Return a constant float32 scalar."""
        return self.constant(np.array(value, np.float32), f"float/{value!r}")

    def op(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Dim],
        *,
        dtype: ir.DataType = ir.DataType.FLOAT,
        domain: str = "",
        **attributes: int | float | str | Sequence[int] | ir.TensorProtocol,
    ) -> ir.Value:
        """Add a node with one output of the stated type and shape; ``name`` says layer and role."""
        return self.multi_op(
            op_type, name, inputs, [(name, dtype, shape)], domain=domain, **attributes
        )[0]

    def multi_op(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType, Sequence[Dim]] | None],
        *,
        domain: str = "",
        **attributes: int | float | str | Sequence[int] | ir.TensorProtocol,
    ) -> list[ir.Value]:
        """Add a node with several outputs; None leaves an optional output out."""
        values = [
            ir.val("", ir.DataType.FLOAT, [])
            if output is None
            else ir.val(*output[:2], list(output[2]))
            for output in outputs
        ]
        self.nodes.append(
            ir.node(op_type, inputs, attributes, domain=domain, outputs=values, name=name)
        )
        return values

    def pad(self, name: str, width: int, block_size: int) -> None:
        """Note that a width is not a multiple of the block, once for all layers alike."""
        role = re.sub(r"layers\.\d+", "layers.*", name)
        padded = -(-width // block_size) * block_size
        self.padded[role] = f"{width} padded to {padded}"

    def finish(self, tensors: Mapping[str, ir.ExternalTensor]) -> ir.Model:
        """Return the model, its weights pointing at ``tensors``."""
        for name, value in self._weight_values.items():
            value.const_value = tensors[name]
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=[*self._weight_values.values(), *self._constants.values()],
            opset_imports={"": OPSET, CONTRIB: 1},
            name=self.name,
        )
        return ir.Model(graph, ir_version=11, producer_name="trtcoder")
