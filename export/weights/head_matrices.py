"""W_UK and W_UV: a matrix for each head, cut out of kv_b_proj, in the order of a product's sums.

A head's matrix is ``[inputs, outputs]``, so that lanes are outputs and a sum goes from row to row.
In 8 bits a code is ONNX' int8, and the rows of a block share a scale in each column: what
``DequantizeLinear`` and our attention read alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.record import Loss, TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.weights.matrix import Matrix
from trtcoder.export.weights.plan import Converted, DType, Part, StoredMatrix, Weight, WeightPlan

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadMatrices:
    """Where the matrices of all heads come from.

    Attributes:
        source: the checkpoint's rows, ``[heads * n, K]``.
        heads: how many matrices they make.
        transposed: whether a head's ``n`` rows are its outputs, as W_UV's; else they are inputs.
        makes: an activation whose channels the outputs are, if a scale of it divides them (see
            `Quantizer`).
    """

    source: Matrix
    heads: int
    transposed: bool = False
    makes: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, inputs and outputs."""
        rows, width = self.source.rows // self.heads, self.source.width
        return (self.heads, width, rows) if self.transposed else (self.heads, rows, width)

    def read(self, quantizer: Quantizer) -> Floats:
        """Return what is stored, float32 ``[heads, inputs, outputs]``."""
        values = self._turned(self.source.read())
        scale = self._scale(quantizer)
        return values if scale is None else values / scale

    def restored(self, quantizer: Quantizer, values: Floats) -> Floats:
        """Undo `read`: return the checkpoint's rows, ``[heads * n, K]``."""
        scale = self._scale(quantizer)
        whole = values if scale is None else values * scale
        rows = whole.transpose(0, 2, 1) if self.transposed else whole
        return np.ascontiguousarray(rows).reshape(self.source.rows, self.source.width)

    def _turned(self, rows: Floats) -> Floats:
        by_head = rows.reshape(self.heads, -1, self.source.width)
        return np.ascontiguousarray(by_head.transpose(0, 2, 1)) if self.transposed else by_head

    def _scale(self, quantizer: Quantizer) -> Floats | None:
        """Return the scale of each head's outputs, ``[heads, 1, outputs]``."""
        scale = None if self.makes is None else quantizer.input_scale(self.makes)
        return None if scale is None else scale.reshape(self.heads, 1, -1)


def declare_rounded_heads(
    plan: WeightPlan, name: str, kind: str, form: HeadMatrices, scheme: Scheme
) -> tuple[Weight, Weight]:
    """Declare codes and scales of the matrices, and the step that rounds them to nearest.

    Codes are bytes ``[heads, inputs, outputs]`` in two's complement, scales float16 ``[heads,
    ceil(inputs / block), outputs]``.

    Raises:
        BuildError: the scheme is not of symmetric int8.
    """
    if scheme.bits != 8 or not scheme.symmetric:
        raise BuildError(f"{name}: {scheme} is not symmetric int8")
    heads, inputs, outputs = form.shape
    codes = plan.declare(name, kind, DType.UINT8, form.shape)
    scales = plan.declare(
        f"{name}/scales", kind, DType.FLOAT16, [heads, scheme.blocks(inputs), outputs]
    )
    # Of no activation: it is the same by every method.
    plan.matrices[name] = StoredMatrix(form.source, "", kind, scheme)

    def produce() -> Converted:
        values = form.read(plan.quantizer)
        # A row for each output, whose blocks are of inputs.
        rows = values.transpose(0, 2, 1).reshape(heads * outputs, inputs)
        matrix, _ = round_to_nearest(rows, scheme, form.source.label)
        whole = matrix.packed.reshape(heads, outputs, -1)[:, :, :inputs].transpose(0, 2, 1)
        stored = np.ascontiguousarray(whole) ^ np.uint8(scheme.middle)
        steps = matrix.scales.reshape(heads, outputs, -1).transpose(0, 2, 1)
        back = dequantize(matrix, scheme, inputs).reshape(heads, outputs, inputs)
        restored = form.restored(plan.quantizer, back.transpose(0, 2, 1))
        plan.quantizer.keep(name, 0, restored)
        loss = Loss.between(form.source.read(), restored)
        record = TensorRecord(
            name, kind, str(scheme), "rtn", values.size, codes.nbytes + scales.nbytes,
            loss.squared_weight, loss.squared_error, loss.max_error,
        )  # fmt: skip
        parts = [Part(codes.name, 0, stored), Part(scales.name, 0, np.ascontiguousarray(steps))]
        return Converted(parts, [record])

    values = heads * inputs * outputs
    plan.add_step(name, form.source.tensors, values, produce, [codes.rows(), scales.rows()])
    return codes, scales
