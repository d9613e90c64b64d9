"""Values that are not finite are found wherever they are, whatever type they are stored as."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.engines import write_checkpoint
from trtcoder.checkpoint.finite import first_not_finite
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import CheckpointError
from trtcoder.testing.random_checkpoint import tiny_config

TYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
NORM = "model.layers.1.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("stored", TYPES)
def test_every_bit_pattern_is_told_apart(stored: str) -> None:
    size = TYPES[stored].itemsize
    if size < 4:
        bits = np.arange(2 ** (8 * size), dtype=f"u{size}")
    else:
        exponents = np.arange(2**9, dtype=np.uint32) << np.uint32(23)
        bits = np.concatenate([exponents, exponents | 1, exponents | 0x7FFFFF])
    finite = np.isfinite(bits.view(TYPES[stored]).astype(np.float32))
    assert not finite.all()
    for pattern, expected in zip(bits, finite, strict=True):
        found = first_not_finite(np.array([0, pattern], bits.dtype), stored)
        assert found == (None if expected else (1,)), hex(int(pattern))


@given(st.data())
def test_the_first_one_is_found_at_its_place(data: st.DataObject) -> None:
    stored = data.draw(st.sampled_from(sorted(TYPES)))
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=12))
    bits = data.draw(hnp.arrays(f"u{TYPES[stored].itemsize}", shape))
    places = np.argwhere(~np.isfinite(bits.view(TYPES[stored]).astype(np.float32)))
    expected = tuple(int(index) for index in places[0]) if len(places) else None
    assert first_not_finite(bits, stored) == expected


def test_one_in_millions_is_found() -> None:
    values = np.zeros((3000, 700), np.uint16)
    assert first_not_finite(values, "BF16") is None
    values[2999, 699] = 0xFF80
    assert first_not_finite(values, "BF16") == (2999, 699)
    assert first_not_finite(np.zeros((0, 5), np.uint16), "BF16") is None


def spoil(checkpoint: Checkpoint, name: str, place: int) -> None:
    stored = checkpoint.tensors[name]
    with stored.file.path.open("r+b") as file:
        file.seek(stored.offset + 2 * place)
        file.write(np.array([0xFF80], np.uint16).tobytes())


def test_rows_that_are_read_in_any_order_name_the_place_in_the_tensor(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    width = checkpoint.shape(EMBEDDING)[1]
    spoil(checkpoint, EMBEDDING, 37 * width + 5)
    spoil(checkpoint, NORM, 9)
    for rows in (
        None, slice(30, 50), slice(37, 38), slice(1, 512, 2), slice(-480, None), slice(60, 20, -1),
        np.array([400, 37, 2]),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"{EMBEDDING}\[37, 5\] is -inf"):
            checkpoint.read(EMBEDDING, rows)
    for other in (slice(38, None), slice(0, 512, 2), np.array([36, 38])):
        checkpoint.read(EMBEDDING, other)
    with pytest.raises(CheckpointError, match=rf"\.safetensors: {NORM}\[9\] is -inf"):
        checkpoint.read(NORM)
