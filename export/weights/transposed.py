"""Int4 matrices as a MatMul takes them behind ONNX' `DequantizeLinear`: transposed, signed.

Their layout is that of ONNX' type INT4: two codes a byte along the last axis, the first in the low
half, in two's complement. Scales are above zero, as TensorRT's documentation of its dequantizing
layer asks. The values are those of the same matrix row by row.
"""

from __future__ import annotations

import numpy as np

from trtcoder.calib.storage.blocks import pack, unpack
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.weights.convert import convert_integers
from trtcoder.export.weights.matrix import CHUNK_VALUES, Matrix, ranges
from trtcoder.export.weights.plan import Converted, DType, Part, StoredMatrix, Weight, WeightPlan


def declare_transposed(
    plan: WeightPlan, name: str, kind: str, activation: str, source: Matrix, scheme: Scheme
) -> tuple[Weight, Weight]:
    """Declare ``source`` ``[N, K]`` as codes and scales, and the step that makes them.

    Codes are bytes ``[K', N / 2]``, with K padded to whole blocks by zeros, scales float16
    ``[K' / block, N]``. ``activation`` is the name of the one that it multiplies.

    Raises:
        BuildError: N is odd, or the scheme is not of symmetric int4 with positive scales.
    """
    if scheme.bits != 4 or not scheme.symmetric or not scheme.positive_scales:
        raise BuildError(f"{name}: {scheme} cannot be stored as signed int4 with positive scales")
    if source.rows % 2:
        raise BuildError(f"{name}: has {source.rows} rows, and int4 values are stored in pairs")
    blocks = scheme.blocks(source.width)
    width = blocks * scheme.block_size
    codes = plan.declare(name, kind, DType.UINT8, [width, source.rows // 2])
    scales = plan.declare(f"{name}/scales", kind, DType.FLOAT16, [blocks, source.rows])
    plan.matrices[name] = StoredMatrix(source, activation, kind, scheme)

    def produce() -> Converted:
        made = np.empty(codes.shape, np.uint8)
        made_scales = np.empty(scales.shape, np.float16)
        records: list[TensorRecord] = []
        for start, stop in ranges(source.rows, max(2, CHUNK_VALUES // source.width // 2 * 2)):
            matrix, record = convert_integers(plan, name, start, stop)
            # An implied zero point of 8 taken off is the sign bit turned over.
            signed = unpack(matrix.packed.reshape(stop - start, -1), 4, width) ^ np.uint8(8)
            # A block of zeros has the scale 0, which compilers do not take.
            empty = matrix.scales == 0
            signed[empty.repeat(scheme.block_size, 1)] = 0
            made[:, start // 2 : stop // 2] = pack(np.ascontiguousarray(signed.T), 4)
            made_scales[:, start:stop] = np.where(empty, np.float16(1), matrix.scales).T
            records.append(record)
        return Converted([Part(codes.name, 0, made), Part(scales.name, 0, made_scales)], records)

    values = source.rows * source.width
    plan.add_step(name, source.tensors, values, produce, [codes.rows(), scales.rows()])
    return codes, scales
