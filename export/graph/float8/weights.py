"""Float8 matrices in the data file: how they are declared, read by the graph, and filled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from trtcoder.calib.storage.float8 import (
    BLOCK,
    Float8,
    Float8Matrix,
    dequantize,
    largest_magnitude,
    quantize,
)
from trtcoder.calib.storage.record import Loss, TensorRecord
from trtcoder.export.graph.builder import Converted, GraphBuilder, Part, StoredMatrix
from trtcoder.export.graph.stored import scaled_rows, unscaled_rows
from trtcoder.export.weights.matrix import CHUNK_VALUES, Matrix

FLOAT, FLOAT8 = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN


def stored_matrix(
    b: GraphBuilder,
    name: str,
    kind: str,
    site: str,
    source: Matrix,
    scheme: Float8,
) -> tuple[ir.Value, ir.Value]:
    """Declare ``source`` ``[N, K]`` and the steps that fill it; return its codes and scales.

    Codes are ``[N, K]``, scales float32 of `Float8.scale_shape`.
    """
    codes = b.weight(name, kind, FLOAT8, [source.rows, source.width])
    scales = b.weight(f"{name}/scales", kind, FLOAT, scheme.scale_shape(source.rows, source.width))
    b.matrices[name] = StoredMatrix(source, site, kind, scheme)
    largest = None if scheme.per_block else functools.cache(lambda: largest_of(b, name))
    for start, stop in _chunks(source):
        produce = functools.partial(_produce, b, name, scheme, start, stop, largest)
        b.step(f"{name}[{start}:{stop}]", source.tensors, (stop - start) * source.width, produce)
    return codes, scales


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
    """Return what a matrix, or a stack of them, stands for: float32 of ``shape``.

    ``scales`` is ``[*leading, rows, C]`` per block (see `scale_rows`); per tensor it is ``[1]``, or
    one for each entry of the first axis.
    """
    axis, block = (len(shape) - 1, BLOCK) if scheme.per_block else (0, 0)
    return b.op(
        "DequantizeLinear",
        f"{name}/float32",
        [codes, scales],
        shape,
        axis=axis,
        block_size=block,
    )


def convert(
    b: GraphBuilder,
    name: str,
    scheme: Float8,
    start: int = 0,
    stop: int | None = None,
    largest: float | None = None,
    fallback: str | None = None,
) -> tuple[Float8Matrix, TensorRecord]:
    """Return rows of the stored matrix ``name``, and what storing them cost.

    ``largest`` as of `trtcoder.calib.storage.float8.quantize`; ``fallback`` goes into the record.
    """
    stored = b.matrices[name]
    stop = stored.source.rows if stop is None else stop
    weights = scaled_rows(b, stored, start, stop)
    matrix = quantize(weights, scheme, name, largest)
    restored = dequantize(matrix)
    if b.quantizer.rescales:
        weights = stored.source.read(start, stop)
        restored = unscaled_rows(b, stored, start, stop, restored)
    b.quantizer.keep(name, start, restored)
    loss = Loss.between(weights, restored)
    record = TensorRecord(
        name, stored.kind, str(scheme), "rtn", weights.size, matrix.nbytes, loss.squared_weight,
        loss.squared_error, loss.max_error, fallback,
    )  # fmt: skip
    return matrix, record


def largest_of(b: GraphBuilder, *matrices: str) -> float:
    """Return the largest magnitude of stored matrices, all of their rows."""
    found = 0.0
    for name in matrices:
        stored = b.matrices[name]
        for start, stop in _chunks(stored.source):
            found = max(found, largest_magnitude(scaled_rows(b, stored, start, stop), name))
    return found


def _chunks(source: Matrix) -> Iterator[tuple[int, int]]:
    """Return row ranges that begin at a block."""
    size = max(1, CHUNK_VALUES // source.width // BLOCK) * BLOCK
    for start in range(0, source.rows, size):
        yield start, min(start + size, source.rows)


def _produce(
    b: GraphBuilder,
    name: str,
    scheme: Float8,
    start: int,
    stop: int,
    largest: Callable[[], float] | None,
) -> Converted:
    matrix, record = convert(b, name, scheme, start, stop, None if largest is None else largest())
    parts = [Part(name, start, matrix.codes)]
    if scheme.per_block:
        parts.append(Part(f"{name}/scales", start // BLOCK, matrix.scales))
    elif start == 0:
        parts.append(Part(f"{name}/scales", 0, matrix.scales))
    return Converted(parts, [record])
