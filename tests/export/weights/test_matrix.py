"""Matrices of rows and columns of checkpoint tensors, against slices of NumPy arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engines import write_checkpoint
from trtcoder.calib.quantizers.quantizer import RoundToNearest
from trtcoder.calib.storage.scheme import FLOAT32
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.calibration.layer_module import LayerModule
from trtcoder.export.reference.model import TransformersReference
from trtcoder.export.weights.convert import scaled_rows, unscaled_rows
from trtcoder.export.weights.matrix import Indices, Matrix, Piece
from trtcoder.export.weights.plan import StoredMatrix
from trtcoder.testing.random_checkpoint import tiny_config

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("matrix") / "checkpoint", tiny_config())


def matrices(checkpoint: Checkpoint) -> list[str]:
    return sorted(
        name
        for name, stored in checkpoint.tensors.items()
        if len(stored.shape) == 2 and max(stored.shape) < 400 and ".experts.1" not in name
    )


def chosen(data: st.DataObject, count: int) -> Indices | None:
    """Draw None for all, a run, or any indices."""
    kind = data.draw(st.sampled_from(["all", "run", "any"]))
    if kind == "all":
        return None
    if kind == "run":
        start = data.draw(st.integers(0, count - 1))
        return np.arange(start, data.draw(st.integers(start + 1, count)), dtype=np.int64)
    drawn = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
    return np.array(drawn, np.int64)


def stacked(data: st.DataObject, checkpoint: Checkpoint) -> tuple[Matrix, Floats]:
    """Draw a matrix of some pieces, and what NumPy makes of them."""
    names = matrices(checkpoint)
    first = data.draw(st.sampled_from(names))
    columns = {first: chosen(data, checkpoint.shape(first)[1])}
    picked_columns = columns[first]
    width = checkpoint.shape(first)[1] if picked_columns is None else len(picked_columns)
    pieces, wanted = [], []
    for name in [first, *data.draw(st.lists(st.sampled_from(names), max_size=2))]:
        rows, whole = checkpoint.shape(name)
        if whole < width:
            continue
        if name not in columns:
            order = data.draw(st.permutations(range(whole)))
            columns[name] = np.array(order[:width], np.int64)
        piece = Piece(name, chosen(data, rows), columns[name])
        pieces.append(piece)
        values = checkpoint.read(name)
        values = values if piece.rows is None else values[piece.rows]
        wanted.append(values if piece.columns is None else values[:, piece.columns])
    return Matrix(checkpoint, tuple(pieces)), np.concatenate(wanted)


@given(st.data())
def test_rows_and_columns_are_read_as_numpy_slices_them(
    source: Checkpoint, data: st.DataObject
) -> None:
    matrix, wanted = stacked(data, source)
    assert (matrix.rows, matrix.width) == wanted.shape
    start = data.draw(st.integers(0, matrix.rows - 1))
    stop = data.draw(st.integers(start + 1, matrix.rows))
    np.testing.assert_array_equal(matrix.read(start, stop), wanted[start:stop])
    bits = matrix.stored(start, stop)
    assert bits.dtype == np.uint16
    assert bits.flags.c_contiguous
    np.testing.assert_array_equal(bits, wanted[start:stop].view(np.uint32) >> 16)
    np.testing.assert_array_equal(matrix.read(), wanted)


@given(st.data())
def test_its_parts_are_the_rows_of_each_piece(source: Checkpoint, data: st.DataObject) -> None:
    matrix, wanted = stacked(data, source)
    start = data.draw(st.integers(0, matrix.rows - 1))
    stop = data.draw(st.integers(start + 1, matrix.rows))
    found = np.full((stop - start, matrix.width), np.nan, np.float32)
    for piece, rows, place in matrix.parts(start, stop):
        values = source.read(piece.tensor)[piece.chosen(rows)]
        assert np.isnan(found[place]).all()
        found[place] = values if piece.columns is None else values[:, piece.columns]
    np.testing.assert_array_equal(found, wanted[start:stop])


class Scaled(RoundToNearest):
    """Has the scales that it is given."""

    rescales = True

    def __init__(self, scales: dict[str, Floats]) -> None:
        self.scales = scales

    def input_scale(self, activation: str) -> Floats | None:
        return self.scales.get(activation)


@given(st.data(), st.booleans(), st.booleans())
def test_a_split_has_the_scales_of_its_own_channels(
    source: Checkpoint, data: st.DataObject, makes: bool, takes: bool
) -> None:
    # A rank's share of a matrix must be the same share of the scaled matrix.
    name = data.draw(st.sampled_from(matrices(source)))
    rows, width = source.shape(name)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scales = {}
    if makes:
        scales["made"] = rng.uniform(0.5, 2, rows).astype(np.float32)
    if takes:
        scales["taken"] = rng.uniform(0.5, 2, width).astype(np.float32)
    quantizer = Scaled(scales)

    def scaled(piece: Piece, start: int, stop: int) -> Floats:
        stored = StoredMatrix(Matrix(source, (piece,)), "taken", "mlp", FLOAT32)
        found = scaled_rows(quantizer, stored, start, stop)
        # Divided and multiplied: two roundings in the last bit.
        back = unscaled_rows(quantizer, stored, start, stop, found)
        np.testing.assert_allclose(back, stored.source.read(start, stop), rtol=1e-6)
        return found

    whole = scaled(Piece(name, makes="made"), 0, rows)
    piece = Piece(name, chosen(data, rows), chosen(data, width), makes="made")
    wanted = whole if piece.rows is None else whole[piece.rows]
    wanted = wanted if piece.columns is None else wanted[:, piece.columns]
    start = data.draw(st.integers(0, len(wanted) - 1))
    stop = data.draw(st.integers(start + 1, len(wanted)))
    np.testing.assert_array_equal(scaled(piece, start, stop), wanted[start:stop])
    if not scales:
        np.testing.assert_array_equal(whole, source.read(name))


def without_repeats(indices: Indices | None) -> Indices | None:
    return None if indices is None else np.unique(indices)[::-1].copy()


@pytest.fixture(scope="module")
def layer(source: Checkpoint) -> LayerModule:
    return LayerModule(TransformersReference(source).load_layer(1), 1)


@given(data=st.data())
def test_the_reference_takes_back_rows_and_columns(
    source: Checkpoint, layer: LayerModule, data: st.DataObject
) -> None:
    own = [name for name in matrices(source) if name.startswith("model.layers.1.")]
    name = data.draw(st.sampled_from(own))
    rows, width = source.shape(name)
    piece = Piece(name, without_repeats(chosen(data, rows)), without_repeats(chosen(data, width)))
    matrix = Matrix(source, (piece,))
    start = data.draw(st.integers(0, matrix.rows - 1))
    stop = data.draw(st.integers(start + 1, matrix.rows))
    wanted = layer.parameter(name).detach().numpy().copy()
    new = np.full((stop - start, matrix.width), data.draw(st.integers(-9, 9)), np.float32)
    taken = np.arange(rows) if piece.rows is None else piece.rows
    columns = np.arange(width) if piece.columns is None else piece.columns
    wanted[np.ix_(taken[start:stop], columns)] = new
    layer.assign(matrix, start, new)
    np.testing.assert_array_equal(layer.parameter(name).detach().numpy(), wanted)


def test_pieces_of_different_widths_are_refused(source: Checkpoint) -> None:
    gate, down = (f"model.layers.0.mlp.{role}_proj.weight" for role in ("gate", "down"))
    with pytest.raises(BuildError, match=rf"{gate} \+ {down}: have widths \[128, 192\]"):
        Matrix(source, (Piece(gate), Piece(down)))
    Matrix(source, (Piece(gate), Piece(down, columns=np.arange(64, 192))))
