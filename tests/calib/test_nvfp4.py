"""NVFP4 is rounded as ModelOpt rounds it, whatever the values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trtcoder.calib.storage.nvfp4 import (
    VALUES,
    Nvfp4Matrix,
    dequantize,
    quantize,
    round_activations,
    scale_for,
)
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
# What ModelOpt made of these matrices (tests/targets/programs/modelopt_nvfp4.py).
GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("modelopt_nvfp4.json").read_text())
# Under a largest magnitude of 6 * 448 the scale is 1, and a block that holds 6 has a scale of 1.
ONE = 2688.0
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 8).map(lambda blocks: 16 * blocks))


def matrix(shape: tuple[int, int], seed: int) -> Floats:
    """Return values whose blocks are up to ten orders of magnitude apart, some of them zeros."""
    rng = np.random.default_rng(seed)
    blocks = rng.standard_normal((shape[0], shape[1] // 16, 16))
    blocks *= 10.0 ** rng.uniform(-5, 5, (*blocks.shape[:2], 1)) * 10.0 ** rng.integers(-20, 20)
    blocks[rng.random(blocks.shape) < 0.1] = 0
    blocks[rng.random(blocks.shape[:2]) < 0.1] = 0
    return blocks.reshape(shape).astype(np.float32)


def codes(stored: Nvfp4Matrix) -> NDArray[np.uint8]:
    pairs = np.stack([stored.packed & 15, stored.packed >> 4], axis=-1)
    return pairs.reshape(len(pairs), -1)


def steps(stored: Nvfp4Matrix) -> Floats:
    """Return the product of both scales for each value."""
    scales = stored.scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    spread: Floats = (scales * stored.scale).repeat(16, axis=1)
    return spread


@pytest.mark.parametrize("name", GOLDEN["matrices"])
def test_codes_and_scales_are_modelopts(name: str) -> None:
    wanted = GOLDEN["matrices"][name]
    bits = np.array(wanted["weights"], np.uint16)
    stored = quantize((bits.astype(np.uint32) << 16).view(np.float32), name)
    assert stored.scale.view(np.int32) == wanted["scale"]
    np.testing.assert_array_equal(stored.scales, np.array(wanted["scales"], np.uint8))
    np.testing.assert_array_equal(stored.packed, np.array(wanted["packed"], np.uint8))


def test_two_codes_a_byte_the_first_in_the_low_half() -> None:
    stored = quantize(VALUES[None], "w", largest=ONE)
    assert stored.scale == 1
    assert stored.scales.view(ml_dtypes.float8_e4m3fn) == 1
    # Zero is never written with a sign, so the ninth code is the first one's.
    assert stored.packed.tobytes().hex() == "1032547690badcfe"
    np.testing.assert_array_equal(dequantize(stored), VALUES[None])


def test_what_each_code_stands_for() -> None:
    packed = np.array([[low | high << 4 for low, high in ((2 * i, 2 * i + 1) for i in range(8))]])
    one = np.ones((1, 1), ml_dtypes.float8_e4m3fn).view(np.uint8)
    stored = Nvfp4Matrix(packed.astype(np.uint8), one, np.ones(1, np.float32))
    wanted = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(dequantize(stored)[0], wanted)


@given(SHAPES, st.integers(0, 999))
def test_codes_are_those_of_ml_dtypes_under_the_scales_of_the_largest_values(
    shape: tuple[int, int], seed: int
) -> None:
    weights = matrix(shape, seed)
    stored = quantize(weights, "w")
    largest = np.abs(weights).max()
    if largest:
        assert stored.scale == largest / np.float32(2688)
    blocks = np.abs(weights).reshape(shape[0], -1, 16).max(-1) / (np.float32(6) * stored.scale)
    blocks = np.clip(np.where(blocks, blocks, 1), np.float32(2**-9), np.float32(448))
    wanted = blocks.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(stored.scales, wanted)
    levels = np.clip(weights / steps(stored), -6, 6)
    rounded = levels.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    np.testing.assert_array_equal(codes(stored), np.where(levels, rounded, 0))


@given(SHAPES, st.integers(0, 999))
def test_every_value_goes_to_the_nearest_of_its_block(shape: tuple[int, int], seed: int) -> None:
    weights = matrix(shape, seed)
    stored = quantize(weights, "w")
    grid = VALUES.astype(float) * steps(stored)[..., None].astype(float)
    nearest = np.abs(grid - weights[..., None].astype(float)).min(-1)
    found = np.abs(dequantize(stored).astype(float) - weights)
    # value / step is rounded to float32 before it is rounded to a code: a tie of 2 ** -24.
    assert (found <= nearest + 2e-7 * np.abs(weights)).all()


@given(SHAPES, st.integers(0, 999), st.integers(1, 5))
def test_rows_by_themselves_are_stored_as_within_their_matrix(
    shape: tuple[int, int], seed: int, cut: int
) -> None:
    weights = matrix(shape, seed)
    whole, largest = quantize(weights, "w"), float(np.abs(weights).max())
    parts = [quantize(each, "w", largest) for each in (weights[:cut], weights[cut:]) if len(each)]
    for name in ("packed", "scales"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert all(part.scale == whole.scale for part in parts)


def test_zeros_are_zeros_and_no_scale_is_zero() -> None:
    stored = quantize(np.zeros((2, 32), np.float32), "w")
    assert stored.scale > 0
    assert not stored.packed.any()
    assert (stored.scales.view(ml_dtypes.float8_e4m3fn) == 1).all()
    assert not dequantize(stored).any()


def test_blocks_below_the_least_scale_keep_it() -> None:
    # The least scale is 2 ** -9: its codes reach down to 2 ** -10, and a quarter step is zero.
    weights = np.zeros((1, 64), np.float32)
    weights[0, 0], weights[0, 16], weights[0, 32], weights[0, 48] = ONE, 1e-3, 2**-11, 2**-30
    stored = quantize(weights, "w")
    assert stored.scales[0, 1:].tolist() == [1, 1, 1]
    assert dequantize(stored)[0, [16, 32, 48]].tolist() == [2**-10, 0, 0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    weights = np.ones((3, 32), np.float32)
    weights[2, 17] = value
    with pytest.raises(BuildError, match=r"layer\.w: holds values that are not finite"):
        quantize(weights, "layer.w")


@pytest.mark.parametrize("width", [1, 15, 17, 40])
def test_widths_that_are_no_whole_blocks_are_refused(width: int) -> None:
    with pytest.raises(BuildError, match=rf"w: {width} columns are not made of whole blocks of 16"):
        quantize(np.ones((2, width), np.float32), "w")


@given(SHAPES, st.integers(0, 999))
def test_activations_are_rounded_under_a_scale_for_each_16_channels(
    shape: tuple[int, int], seed: int
) -> None:
    values = matrix(shape, seed)
    scale = scale_for(float(np.abs(values).max()))
    blocks = values.reshape(shape[0], -1, 16).astype(float)
    found = round_activations(values, scale).reshape(blocks.shape)
    sizes = np.abs(blocks).max(-1, keepdims=True) / (6 * scale.astype(float))
    fits = []
    # Beside a tie between two scales the last bits of a reciprocal decide.
    for shift in (1 - 1e-6, 1 + 1e-6):
        scales = (sizes * shift).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
        grid = VALUES.astype(float) * (scales.astype(float) * scale)[..., None]
        nearest = np.abs(grid - blocks[..., None]).min(-1)
        # Three float32 roundings lie between a value and its code.
        fits.append(np.abs(found - blocks) <= nearest + 4e-7 * np.abs(blocks))
    assert (fits[0] | fits[1]).all()


def test_activations_beyond_the_calibrated_range_are_cut_off_and_nan_stays() -> None:
    values = np.zeros((2, 32), np.float32)
    values[0, :3] = 3 * ONE, -ONE, 1
    values[1, 4], values[1, 16] = np.nan, 2**-13
    found = round_activations(values, np.ones(1, np.float32))
    assert found[0, :3].tolist() == [ONE, -ONE, 0]
    assert np.isnan(found[1, 4])
    # Its scale, 2 ** -13 / 6, is rounded to 0.
    assert not found[1, 16:].any()
