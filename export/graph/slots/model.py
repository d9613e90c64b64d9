"""Layers in float16 with int4 or float8 weights, as compilers of plans take them.

The residual stream, norms, router and softmax are float32; what matmuls take is float16. Weights
are dequantized in front of their matmul, which compilers fuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.storage.float8 import Float8
from trtcoder.export.graph.builder import Dim
from trtcoder.export.graph.float8 import layers as float8_layers
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.weights import convert, modules
from trtcoder.export.weights.matrix import Matrix
from trtcoder.export.weights.modules import Kept, Linear, add_steps
from trtcoder.export.weights.plan import DType, Weight
from trtcoder.export.weights.transposed import declare_transposed

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass(frozen=True, slots=True)
class SlotModel(ModelBuilder):
    """A `ModelBuilder` whose layers compilers of plans take."""

    def declare(
        self,
        name: str,
        kind: str,
        shape: tuple[int, ...],
        tensor: str,
        read: Callable[[], NDArray[np.float32]],
    ) -> Weight:
        """Declare a parameter: norms and router float32, others float16."""
        plan = self.b.plan
        if kind in ("norms", "router"):
            return convert.declare_parameter(plan, name, kind, shape, (tensor,), "F32", read)
        return modules.declare_parameter(
            plan, name, name, kind, shape, read, source=tensor, dtype=DType.FLOAT16
        )

    def norm(self, name: str, tensor: str, x: ir.Value, width: int, epsilon: float) -> ir.Value:
        """Normalise ``x`` ``[tokens, width]`` in float32; the result is float16."""
        wide = self.norm_wide(name, tensor, x, width, epsilon)
        return self.half(name, wide, width)

    def half(self, name: str, wide: ir.Value, width: int) -> ir.Value:
        """Return a norm ``[tokens, width]`` as matmuls take it, the activation ``name``."""
        return self.b.cast(wide, name, ["tokens", width], HALF)

    def norm_wide(
        self, name: str, tensor: str, x: ir.Value, width: int, epsilon: float
    ) -> ir.Value:
        """Normalise ``x`` ``[tokens, width]``; the result is float32."""
        shape: list[Dim] = ["tokens", width]
        x = self.b.cast(x, f"{name}/float32", shape, FLOAT)
        inputs = [x, self.norm_weight(name, tensor, as_type=FLOAT)]
        return self.b.op(
            "RMSNormalization", f"{name}/wide", inputs, shape, dtype=FLOAT, epsilon=epsilon
        )

    def linear(
        self,
        name: str,
        kind: str,
        x: ir.Value,
        source: Matrix,
        rows: str = "tokens",
        activation: str | None = None,
    ) -> ir.Value:
        """Multiply float16 ``x`` with a matrix: float16 ``[rows, rows of source]``."""
        b, scheme = self.b, self.recipe.graph_scheme(kind, self.layer)
        shape: list[Dim] = [rows, source.rows]
        if isinstance(scheme, Float8):
            return float8_layers.linear(b, name, kind, x, source, scheme, rows, activation)
        activation = activation or str(x.name)
        if scheme.is_float:
            kept = Kept(
                b.plan, Linear(name, f"{name}/weight", kind, activation, source), DType.FLOAT16
            )
            add_steps(b.plan, kept)
            weight = b.weight(kept.weight)
            return b.op("Gemm", name, [x, weight], shape, transB=1)
        stored, scales = declare_transposed(
            b.plan, f"{name}/weight", kind, activation, source, scheme
        )
        width = stored.shape[0]
        if width != source.width:
            b.plan.pad(name, source.width, scheme.block_size)
            pads = b.ints(0, 0, 0, width - source.width)
            x = b.op("Pad", f"{name}/padded", [x, pads], [rows, width])
        codes = b.weight(stored, shape=[width, source.rows], view=ir.DataType.INT4)
        weight = b.op(
            "DequantizeLinear",
            f"{name}/dequantized",
            [codes, b.weight(scales)],
            [width, source.rows],
            axis=0,
            block_size=scheme.block_size,
        )
        return b.op("MatMul", name, [x, weight], shape)

    def swiglu(self, name: str, prefix: str, x: ir.Value) -> ir.Value:
        """Return ``down(silu(gate x) * up x)`` of the tensors ``PREFIX.{gate,up,down}_proj``."""
        b, inner = self.b, self.checkpoint.shape(f"{prefix}.gate_proj.weight")[0]
        shape: list[Dim] = ["tokens", inner]
        fused = self.linear(f"{name}/gate_up_proj", "mlp", x, self.gate_up(name, prefix))
        gate, up = self.split(name, "split", fused, ("gate", "up"), (inner, inner))
        sigmoid = b.op("Sigmoid", f"{name}/sigmoid", [gate], shape)
        silu = b.op("Mul", f"{name}/silu", [gate, sigmoid], shape)
        product = b.op("Mul", f"{name}/product", [silu, up], shape)
        down = self.matrix(f"{prefix}.down_proj.weight")
        return self.linear(f"{name}/down_proj", "mlp", product, down, activation=f"{name}/product")
