"""Float8 matrices in the graph: codes and scales become values of the activations' type."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from trtcoder.calib.storage.float8 import BLOCK, Float8
from trtcoder.export.graph.builder import GraphBuilder


def scale_rows(
    b: GraphBuilder, name: str, scales: ir.Value, leading: Sequence[int], rows: int, width: int
) -> ir.Value:
    """Repeat block scales ``[*leading, R, C]`` for each of ``rows``: ``[*leading, rows, C]``.

    DequantizeLinear knows blocks along one axis only. ONNX Runtime does this once, when it loads
    the graph.
    """
    blocks, columns, axis = -(-rows // BLOCK), -(-width // BLOCK), len(leading)
    single = b.op(
        "Unsqueeze", f"{name}/single", [scales, b.ints(axis + 1)], [*leading, blocks, 1, columns]
    )
    repeated = [*leading, blocks, BLOCK, columns]
    spread = b.op("Expand", f"{name}/repeated", [single, b.ints(*repeated)], repeated)
    whole = [*leading, blocks * BLOCK, columns]
    merged = b.op("Reshape", f"{name}/merged", [spread, b.ints(*whole)], whole)
    return b.op(
        "Slice",
        f"{name}/rows",
        [merged, b.ints(0), b.ints(rows), b.ints(axis)],
        [*leading, rows, columns],
    )


def restore(
    b: GraphBuilder,
    name: str,
    codes: ir.Value,
    scales: ir.Value,
    shape: Sequence[int],
    scheme: Float8,
) -> ir.Value:
    """Return what a matrix, or a stack of them, stands for: activations' type, of ``shape``.

    ``scales`` is ``[*leading, rows, C]`` per block (see `scale_rows`); per tensor it is ``[1]``, or
    one for each entry of the first axis.
    """
    axis, block = (len(shape) - 1, BLOCK) if scheme.per_block else (0, 0)
    return b.op(
        "DequantizeLinear",
        f"{name}/dequantized",
        [codes, scales],
        shape,
        axis=axis,
        block_size=block,
    )
