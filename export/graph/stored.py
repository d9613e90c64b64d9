"""How a matrix lies in the data file, how the graph reads it, and how it gets there.

Scales are stored as float16, and what keeps the checkpoint's values in the checkpoint's type. A
Cast over the constant makes float32 of either; ONNX Runtime folds it when it loads the graph, so
the file is half as large there and the kernels see float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.record import Loss, TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import Converted, GraphBuilder, Part, StoredMatrix, Weight

FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
UINT8 = ir.DataType.UINT8
_STORED_TYPES = {"BF16": BFLOAT16, "F16": FLOAT16, "F32": FLOAT}

Arrays = list[NDArray[np.generic]]


def parameter(
    b: GraphBuilder,
    name: str,
    kind: str,
    shape: Sequence[int],
    tensors: tuple[str, ...],
    stored_type: str,
    read: Callable[[], NDArray[np.float32]],
) -> ir.Value:
    """Declare a weight that ``read`` returns whole, kept as it is; return it as float32.

    ``stored_type`` is the checkpoint's: BF16, F16 or F32.
    """
    dtype = _STORED_TYPES["F32" if b.quantizer.rescales else stored_type]
    value = b.weight(name, kind, dtype, shape)
    weight = b.weights[name]

    def produce() -> Converted:
        values = read()
        record = TensorRecord(
            name, kind, dtype.name.lower(), "exact", values.size, weight.nbytes,
            squared_weight=float(np.vdot(values, values)),
        )  # fmt: skip
        return Converted([Part(name, 0, _narrow(values, weight))], [record])

    b.step(name, tensors, int(np.prod(shape)), produce)
    return value if dtype == FLOAT else _as_float32(b, value, name)


def declare(
    b: GraphBuilder,
    name: str,
    kind: str,
    leading: Sequence[int],
    width: int,
    scheme: Scheme,
    flat: bool = False,
) -> list[ir.Value]:
    """Declare a matrix of rows ``leading`` and ``width`` columns; return what a kernel takes.

    That is the matrix, or codes, float32 scales and zero points. Codes are
    ``[*leading, blocks, bytes a block]``, or ``[*leading, bytes a row]`` when ``flat``.
    """
    if scheme.is_float:
        return [b.weight(name, kind, FLOAT, [*leading, width])]
    blocks = scheme.blocks(width)
    blob = scheme.block_size * scheme.bits // 8
    shape = [*leading, blocks * blob] if flat else [*leading, blocks, blob]
    codes = b.weight(name, kind, UINT8, shape)
    scales = b.weight(f"{name}/scales", kind, FLOAT16, [*leading, blocks])
    values = [codes, _as_float32(b, scales, f"{name}/scales")]
    if not scheme.symmetric:
        packed = -(-blocks * scheme.bits // 8)
        values.append(b.weight(f"{name}/zero_points", kind, UINT8, [*leading, packed]))
    return values


def names(name: str, scheme: Scheme) -> list[str]:
    """Return the names of the weights that `declare` declares."""
    if scheme.is_float:
        return [name]
    return [name, f"{name}/scales", *([] if scheme.symmetric else [f"{name}/zero_points"])]


def convert(
    b: GraphBuilder,
    name: str,
    start: int = 0,
    stop: int | None = None,
    flat: bool = False,
) -> tuple[Arrays, TensorRecord]:
    """Return rows of the stored matrix ``name`` as `declare` wants them, and what that cost."""
    stored = b.matrices[name]
    kind, scheme = stored.kind, stored.scheme
    if not isinstance(scheme, Scheme):
        raise BuildError(f"{name}: {scheme} is not converted here but in fp8_weights")
    stop = stored.source.rows if stop is None else stop
    if scheme.is_float:
        exact = scaled_rows(b, stored, start, stop)
        return [exact], TensorRecord(
            name, kind, str(scheme), "exact", exact.size, exact.nbytes,
            squared_weight=float(np.vdot(exact, exact)),
        )  # fmt: skip
    calibrates, source = b.quantizer.calibrates, stored.source
    weights = scaled_rows(b, stored, start, stop) if calibrates else source.stored(start, stop)
    found = b.quantizer.quantize(name, stored.site, weights, scheme, start)
    loss = found.loss
    if calibrates or loss is None:
        restored = unscaled_rows(
            b, stored, start, stop, dequantize(found.matrix, scheme, source.width)
        )
        b.quantizer.keep(name, start, restored)
        loss = Loss.between(source.read(start, stop), restored)
    matrix = found.matrix
    record = TensorRecord(
        name, kind, str(scheme), found.method, (stop - start) * source.width, matrix.nbytes,
        loss.squared_weight, loss.squared_error, loss.max_error, found.fallback,
    )  # fmt: skip
    arrays: Arrays = [matrix.packed.reshape(stop - start, -1) if flat else matrix.packed]
    arrays.append(matrix.scales)
    if matrix.zero_points is not None:
        arrays.append(matrix.zero_points)
    return arrays, record


def scaled_rows(
    b: GraphBuilder, stored: StoredMatrix, start: int, stop: int
) -> NDArray[np.float32]:
    """Return rows of a matrix as they are stored: between two scaled sites (see `Quantizer`)."""
    values = stored.source.read(start, stop, b.quantizer.input_scale)
    scale = b.quantizer.input_scale(stored.site)
    if scale is not None:
        values *= scale
    return values


def unscaled_rows(
    b: GraphBuilder, stored: StoredMatrix, start: int, stop: int, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Undo the scales of `scaled_rows`."""
    scale = b.quantizer.input_scale(stored.site)
    values = values.copy() if scale is None else values / scale
    for piece, rows, place in stored.source.parts(start, stop):
        divisor = None if piece.makes is None else b.quantizer.input_scale(piece.makes)
        if divisor is not None:
            values[place] *= divisor[rows, None]
    return values


def _as_float32(b: GraphBuilder, value: ir.Value, name: str) -> ir.Value:
    shape = b.weights[name].shape
    return b.op("Cast", f"{name}/float32", [value], shape, to=int(FLOAT))


def _narrow(values: NDArray[np.float32], weight: Weight) -> NDArray[np.generic]:
    """Return float32 values in the weight's type, which holds them exactly."""
    if weight.dtype == BFLOAT16:
        return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(weight.numpy_dtype)
