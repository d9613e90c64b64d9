"""Int4 matrices in ONNX' own layout, read by ONNX Runtime's DequantizeLinear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.engines import write_checkpoint
from tests.graphs import run_graph
from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.weights.matrix import Matrix, Piece
from trtcoder.export.weights.plan import DType
from trtcoder.export.weights.transposed import declare_transposed
from trtcoder.testing.random_checkpoint import tiny_config

SCHEME = Scheme(4, 128, positive_scales=True)
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
# Its width is a block and a half.
DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("transposed") / "c", tiny_config())


@pytest.mark.parametrize("tensor", [Q_PROJ, DOWN])
@pytest.mark.parametrize("chunk", [1 << 24, 300])
def test_its_values_are_those_of_the_same_matrix_row_by_row(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, chunk: int
) -> None:
    monkeypatch.setattr("trtcoder.export.weights.transposed.CHUNK_VALUES", chunk)
    matrix = Matrix(source, (Piece(tensor),))
    rows, width = matrix.rows, SCHEME.blocks(matrix.width) * SCHEME.block_size
    b = GraphBuilder("g", opset=24)
    codes, scales = declare_transposed(b.plan, "w", "mlp", "x", matrix, SCHEME)
    values = b.op(
        "DequantizeLinear",
        "values",
        [
            b.weight(codes, shape=[width, rows], view=ir.DataType.INT4),
            b.weight(scales, narrow=(DType.FLOAT16,)),
        ],
        [width, rows],
        dtype=ir.DataType.FLOAT16,
        axis=0,
        block_size=SCHEME.block_size,
    )
    b.output(values, "out")
    (found,) = run_graph(b, tmp_path, {})
    wanted = dequantize(round_to_nearest(matrix.read(), SCHEME, "w")[0], SCHEME, matrix.width)
    # A code times its scale, rounded to float16.
    np.testing.assert_array_equal(found[: matrix.width], wanted.T.astype(np.float16))
    assert not found[matrix.width :].any()


def test_blocks_of_zeros_have_a_scale_above_zero(
    source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Matrix, "stored", lambda self, start, stop: np.zeros((stop - start, self.width), np.uint16)
    )
    plan = GraphBuilder("g").plan
    declare_transposed(plan, "w", "mlp", "x", Matrix(source, (Piece(Q_PROJ),)), SCHEME)
    codes, scales = plan.steps[0].produce().parts
    assert not codes.value.any()
    np.testing.assert_array_equal(scales.value, np.ones_like(scales.value))


@pytest.mark.parametrize(
    "scheme", [Scheme(8, 128), Scheme(4, 128), Scheme(4, 128, False, positive_scales=True)], ids=str
)
def test_what_the_layout_cannot_hold_is_refused(source: Checkpoint, scheme: Scheme) -> None:
    matrix = Matrix(source, (Piece(Q_PROJ),))
    with pytest.raises(BuildError, match="cannot be stored as signed int4"):
        declare_transposed(GraphBuilder("g").plan, "w", "mlp", "x", matrix, scheme)


def test_an_odd_number_of_rows_is_refused(source: Checkpoint) -> None:
    matrix = Matrix(source, (Piece(Q_PROJ, np.arange(3, dtype=np.int64)),))
    with pytest.raises(BuildError, match="has 3 rows, and int4 values are stored in pairs"):
        declare_transposed(GraphBuilder("g").plan, "w", "mlp", "x", matrix, SCHEME)
