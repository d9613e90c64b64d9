"""A thin layer over onnx-ir: named nodes with typed outputs, constants, and the plan's weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.weights.plan import DType, Weight, WeightPlan
from trtcoder.plugins.library import DOMAIN

Dim = int | str
CONTRIB = "com.microsoft"
OPSET = 23

_TYPES = {
    DType.FLOAT: ir.DataType.FLOAT,
    DType.FLOAT16: ir.DataType.FLOAT16,
    DType.BFLOAT16: ir.DataType.BFLOAT16,
    DType.FLOAT8: ir.DataType.FLOAT8E4M3FN,
    DType.UINT8: ir.DataType.UINT8,
}


class GraphBuilder:
    """Collects the nodes of one graph.

    Attributes:
        plan: the weights that the graph takes.
        uses_kernels: whether nodes are our own operators where there is one, or ONNX Runtime's
            alone. The weights are the same.
        opset: the version of ONNX' own operators.
    """

    def __init__(
        self,
        name: str,
        plan: WeightPlan | None = None,
        *,
        uses_kernels: bool = False,
        opset: int = OPSET,
    ) -> None:
        self.name = name
        self.opset = opset
        self.plan = plan or WeightPlan()
        self.uses_kernels = uses_kernels
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._shared: dict[str, ir.Value] = {}
        self._constants: dict[str, ir.Value] = {}
        self._model: ir.Model | None = None

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
        dtype: ir.DataType | None = None,
        narrow: Collection[DType] = (),
    ) -> ir.Value:
        """Return a weight of the plan as kernels take it: float32, or codes.

        A Cast over a constant makes float32 of narrower floats, but for those types that the node
        takes as they are (``narrow``); ONNX Runtime folds it when it loads the graph, so the file
        is half as large there and the kernels see float32. ``shape`` and ``dtype`` are another view
        of the bytes.
        """
        dims = list(weight.shape if shape is None else shape)
        value = ir.val(weight.name, dtype or _TYPES[weight.dtype], dims)
        self._initializers[weight.name] = value
        if weight.dtype not in (DType.FLOAT16, DType.BFLOAT16) or weight.dtype in narrow:
            return value
        return self.to_float(value, f"{weight.name}/float32", dims)

    def to_float(self, value: ir.Value, name: str, shape: Sequence[int]) -> ir.Value:
        """Return a constant as float32."""
        return self.op("Cast", name, [value], shape, to=int(ir.DataType.FLOAT))

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
