"""A thin layer over onnx-ir: named nodes with typed outputs, constants, and the plan's weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.weights.plan import DType, Weight, WeightPlan
from trtcoder.plugins.library import DOMAIN

Dim = int | str
# A value's name, type and shape; without a type it is the graph's activations'.
Output = tuple[str, ir.DataType | None, Sequence[Dim]]
CONTRIB = "com.microsoft"
OPSET = 23
FLOAT = ir.DataType.FLOAT

_TYPES = {
    DType.FLOAT: ir.DataType.FLOAT,
    DType.FLOAT16: ir.DataType.FLOAT16,
    DType.BFLOAT16: ir.DataType.BFLOAT16,
    DType.FLOAT8: ir.DataType.FLOAT8E4M3FN,
    DType.UINT8: ir.DataType.UINT8,
}


_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16)


@dataclass(frozen=True, slots=True)
class CudaForm:
    """What a graph for CUDA is made of.

    Attributes:
        activations: the type in which layers pass values on, float16 or bfloat16.
        is_twin: whether it is the graph's twin for the CPU, by which its values are verified. The
            CPU has no kernel for paged latent attention, and few for these types. So the twin
            writes attention out, and computes in float32 and rounds each value that the other graph
            holds in ``activations``.
    """

    activations: ir.DataType
    is_twin: bool = False


class GraphBuilder:
    """Collects the nodes of one graph.

    Attributes:
        plan: the weights that the graph takes.
        uses_kernels: whether nodes are our own operators where there is one, or ONNX Runtime's
            alone. The weights are the same.
        cuda: the form of a graph for CUDA; None for the CPU's.
        opset: the version of ONNX' own operators.
    """

    def __init__(
        self,
        name: str,
        plan: WeightPlan | None = None,
        *,
        uses_kernels: bool = False,
        cuda: CudaForm | None = None,
        opset: int = OPSET,
    ) -> None:
        self.name = name
        self.opset = opset
        self.plan = plan or WeightPlan()
        self.uses_kernels = uses_kernels
        self.cuda = cuda
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._shared: dict[str, ir.Value] = {}
        self._constants: dict[str, ir.Value] = {}
        self._model: ir.Model | None = None

    @property
    def activations(self) -> ir.DataType:
        """The type of values that layers pass on."""
        return FLOAT if self.cuda is None or self.cuda.is_twin else self.cuda.activations

    @property
    def attends_by_pages(self) -> bool:
        """Whether attention is CUDA's own operator."""
        return self.cuda is not None and not self.cuda.is_twin

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        """Declare a graph input."""
        value = ir.val(name, dtype, list(shape))
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str) -> None:
        """Make ``value`` a graph output called ``name``."""
        value.name = name
        self.outputs.append(value)

    def weight(
        self,
        weight: Weight,
        *,
        shape: Sequence[int] | None = None,
        view: ir.DataType | None = None,
        narrow: Collection[DType] = (),
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """Return a weight of the plan as kernels take it: as ``dtype``, or codes.

        By default that is the activations' type. A Cast over a constant makes it of others, but for
        those types that the node takes as they are (``narrow``); ONNX Runtime folds it when it
        loads the graph, so the file is smaller. ``shape`` and ``view``, a type, are another view
        of the bytes.
        """
        dims = list(weight.shape if shape is None else shape)
        value = ir.val(weight.name, view or _TYPES[weight.dtype], dims)
        self._initializers[weight.name] = value
        if weight.dtype not in _FLOATS or weight.dtype in narrow:
            return value
        if dtype is None and self.cuda is not None and self.cuda.is_twin:
            value = self.cast(value, f"{weight.name}/rounded", dims, self.cuda.activations)
        wanted = dtype or self.activations
        role = "float32" if wanted == FLOAT else "narrow"
        return self.cast(value, f"{weight.name}/{role}", dims, wanted)

    def cast(
        self, value: ir.Value, name: str, shape: Sequence[Dim], dtype: ir.DataType
    ) -> ir.Value:
        """Return a value in another type; itself if it has that type."""
        if value.dtype == dtype:
            return value
        return self.op("Cast", name, [value], shape, dtype=dtype, to=int(dtype))

    def as_activation(self, value: ir.Value, name: str, shape: Sequence[Dim]) -> ir.Value:
        """Return a float32 value in the activations' type."""
        if self.cuda is not None and self.cuda.is_twin:
            return self._round(value, name, shape, self.cuda.activations)
        return self.cast(value, name, shape, self.activations)

    def once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """Return the value ``name`` that several layers take, made when it is first asked for."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

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
        dtype: ir.DataType | None = None,
        domain: str = "",
        **attributes: int | float | str | Sequence[int] | ir.TensorProtocol,
    ) -> ir.Value:
        """Add a node with one output of the stated shape; ``name`` says layer and role.

        Without a ``dtype`` the output is an activation.
        """
        return self.multi_op(
            op_type, name, inputs, [(name, dtype, shape)], domain=domain, **attributes
        )[0]

    def multi_op(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[Output | None],
        *,
        domain: str = "",
        **attributes: int | float | str | Sequence[int] | ir.TensorProtocol,
    ) -> list[ir.Value]:
        """Add a node with several outputs; None leaves an optional output out."""
        rounded = None if self.cuda is None or not self.cuda.is_twin else self.cuda.activations
        values = []
        for output in outputs:
            called, dtype, shape = output or ("", FLOAT, [])
            exact = rounded is not None and dtype is None
            called = f"{called}/exact" if exact else called
            values.append(ir.val(called, dtype or self.activations, list(shape)))
        self.nodes.append(
            ir.node(op_type, inputs, attributes, domain=domain, outputs=values, name=name)
        )
        if rounded is None:
            return values
        return [
            value
            if output is None or output[1] is not None
            else self._round(value, output[0], output[2], rounded)
            for value, output in zip(values, outputs, strict=True)
        ]

    def _round(
        self, value: ir.Value, name: str, shape: Sequence[Dim], dtype: ir.DataType
    ) -> ir.Value:
        """Return float32 values that ``dtype`` holds; they have the name ``name``."""
        narrow = self.cast(value, f"{name}/rounded", shape, dtype)
        restored = [(name, FLOAT, shape)]
        return self.multi_op("Cast", f"{name}/restored", [narrow], restored, to=int(FLOAT))[0]

    def model(self, location: str, offsets: Mapping[str, int]) -> ir.Model:
        """Return the model; its weights lie at ``offsets`` of the file ``location`` beside it.

        It takes the nodes for good, so it is made once and nothing can be added behind.
        """
        if self._model is None:
            self._model = self._make_model(location, offsets)
        return self._model

    def _make_model(self, location: str, offsets: Mapping[str, int]) -> ir.Model:
        for name, value in self._initializers.items():
            weight = self.plan.declared[name]
            value.const_value = ir.ExternalTensor(
                location,
                offsets[name],
                weight.nbytes,
                value.dtype or _TYPES[weight.dtype],
                shape=ir.Shape(value.shape or ()),
                name=name,
            )
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=[*self._initializers.values(), *self._constants.values()],
            opset_imports={"": self.opset, CONTRIB: 1} | ({DOMAIN: 1} if self.uses_kernels else {}),
            name=self.name,
        )
        return ir.Model(graph, ir_version=11, producer_name="trtcoder")
