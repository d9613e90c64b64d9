"""The float8 latent cache: rows of codes, and a scale for each group of values.

ScatterND takes no float8, and no operator of ONNX Runtime's CPU provider gives the bits of one.
Values that a Cast has rounded to float8 are multiples of 2 ** -9 up to 448, so a table of all of
them gives the codes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtcoder.calib.storage.float8 import E4M3, LARGEST
from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.float8.activations import decode, multiply_groups, round_groups
from trtcoder.export.weights.plan import Converted, DType, Part

BOOL, INT32, UINT8 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.UINT8

_STEPS = 512  # to 1: float8's smallest value is 2 ** -9
_TOP = int(LARGEST) * _STEPS
_TABLE = "fp8/codes"


def encode(
    b: GraphBuilder, name: str, entry: ir.Value, groups: int, size: int
) -> tuple[ir.Value, ir.Value]:
    """Round ``entry`` ``[tokens, groups * size]`` to float8.

    Returns uint8 codes ``[tokens, groups * size]``, zero always as +0, and float32 scales
    ``[tokens, groups]``.
    """
    shape: list[Dim] = ["tokens", groups, size]
    grouped = b.op("Reshape", f"{name}_groups", [entry, b.ints(-1, groups, size)], shape)
    values, scale = round_groups(b, f"{name}_entry", grouped, shape)
    steps = b.op("Mul", f"{name}_steps", [values, b.scalar(_STEPS)], shape)
    places = b.op("Add", f"{name}_places", [steps, b.scalar(_TOP)], shape)
    # What is not a number has the last code: a fault must stay visible.
    fault = b.op("IsNaN", f"{name}_fault", [values], shape, dtype=BOOL)
    places = b.op("Where", f"{name}_known_places", [fault, b.scalar(2 * _TOP + 1), places], shape)
    indices = b.op("Cast", f"{name}_indices", [places], shape, dtype=INT32, to=int(INT32))
    table = b.once(_TABLE, lambda: _declare_table(b))
    codes = b.op("Gather", f"{name}_codes", [table, indices], shape, dtype=UINT8, axis=0)
    width = groups * size
    codes = b.op(
        "Reshape", f"{name}_row", [codes, b.ints(-1, width)], ["tokens", width], dtype=UINT8
    )
    scales = b.op("Reshape", f"{name}_scale", [scale, b.ints(-1, groups)], ["tokens", groups])
    return codes, scales


def restore(
    b: GraphBuilder, name: str, codes: ir.Value, scales: ir.Value, groups: int, size: int
) -> ir.Value:
    """Return all rows of the cache, float32 ``[rows, groups * size]``."""
    values = decode(b, f"{name}_values", codes, ["rows", groups * size])
    return multiply_groups(b, f"{name}_rows", values, scales, "rows", groups, size)


def _declare_table(b: GraphBuilder) -> ir.Value:
    """Declare the codes of all multiples of 2 ** -9 from -448 to 448, and of NaN."""

    def produce() -> Converted:
        steps = np.arange(-_TOP, _TOP + 1, dtype=np.float32) / _STEPS
        # Adding 0 makes +0 of -0.
        codes = np.append((steps + 0).astype(E4M3).view(np.uint8), np.uint8(0x7F))
        return Converted([Part(_TABLE, 0, codes)], [])

    table = b.plan.declare(_TABLE, "activations", DType.UINT8, [2 * _TOP + 2])
    b.plan.add_step(_TABLE, (), 0, produce, [table.rows()])
    return b.weight(table)
