from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engines import write_checkpoint
from tests.graphs import run_graph
from trtcoder.calib.quantizers.clip import clipped_grid
from trtcoder.calib.quantizers.rounding import round_to_grid, round_to_nearest
from trtcoder.calib.storage.blocks import (
    QuantizedMatrix,
    dequantize,
    grid_of,
    grouped,
    pack,
    unpack,
)
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.layers import embedding, mixture_of_experts
from trtcoder.export.recipe import preset
from trtcoder.export.weights.experts import Expert
from trtcoder.export.weights.matrix import Matrix, Piece
from trtcoder.testing.random_checkpoint import tiny_config

EMBEDDING = "model.embed_tokens.weight"

SCHEMES = st.builds(Scheme, st.sampled_from([4, 8]), st.sampled_from([16, 32, 128]), st.booleans())
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 200))


def quantize(weights: NDArray[np.float32], scheme: Scheme, where: str) -> QuantizedMatrix:
    return round_to_nearest(weights, scheme, where)[0]


def matrix(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32) * np.float32(10.0 ** rng.integers(-3, 3))
    values[rng.random(shape) < 0.1] = 0
    return values


@given(st.integers(0, 99), st.integers(1, 9), st.sampled_from([4, 8]))
def test_packing_loses_nothing(seed: int, count: int, bits: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (3, count)).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, count), codes)


@given(SHAPES, st.sampled_from([4, 8]), st.booleans(), st.integers(0, 99))
def test_scales_that_bfloat16_holds_are_chosen_before_the_codes(
    shape: tuple[int, int], bits: int, symmetric: bool, seed: int
) -> None:
    weights, scheme = matrix(shape, seed), Scheme(bits, 32, symmetric, bfloat16_scales=True)
    stored = quantize(weights, scheme, "w")
    scales = stored.scales.astype(np.float32)
    np.testing.assert_array_equal(scales.astype(ml_dtypes.bfloat16).astype(np.float32), scales)
    # The codes are the nearest ones on these scales, not on finer ones.
    again = round_to_grid(weights, grid_of(stored, scheme), scheme, "w")[0]
    np.testing.assert_array_equal(again.packed, stored.packed)
    fine = quantize(weights, Scheme(bits, 32, symmetric), "w").scales.astype(np.float32)
    np.testing.assert_allclose(scales, fine, rtol=2.0**-8)


@given(SHAPES, st.booleans(), st.integers(0, 99))
def test_positive_scales_reach_the_extremes_of_a_block_by_one_code_or_the_other(
    shape: tuple[int, int], clipped: bool, seed: int
) -> None:
    weights, scheme = matrix(shape, seed), Scheme(4, 32, positive_scales=True)
    stored = quantize(weights, scheme, "w")
    if clipped:
        stored = round_to_grid(weights, clipped_grid(weights, None, scheme, "w"), scheme, "w")[0]
    scales = stored.scales.astype(np.float32)
    assert (scales >= 0).all()
    if clipped:
        return
    blocks = grouped(weights, scheme)
    # Half of float16's smallest step beside its eleven bits.
    reach = np.maximum(-blocks.min(-1) / 8, blocks.max(-1) / 7)
    np.testing.assert_allclose(scales, np.maximum(reach, 0), rtol=2.0**-11, atol=2.0**-25)
    error = np.abs(dequantize(stored, scheme, shape[1]) - weights)
    steps = scales.repeat(scheme.block_size, 1)[:, : shape[1]]
    # Half a step, and what rounding the scale moves the end of the grid by.
    assert (error <= (0.5 + 8 * 2.0**-11) * steps + 8 * 2.0**-25).all()


def test_a_scale_beyond_what_eight_bits_of_float16_hold_is_refused() -> None:
    weights = np.full((1, 32), np.float32(-8 * 65400))
    assert np.isfinite(quantize(weights, Scheme(4, 32), "w").scales).all()
    with pytest.raises(BuildError, match="beyond the range of float16 scales"):
        quantize(weights, Scheme(4, 32, bfloat16_scales=True), "w")


@given(SHAPES, SCHEMES, st.integers(0, 99))
def test_every_value_is_at_most_half_a_step_off(
    shape: tuple[int, int], scheme: Scheme, seed: int
) -> None:
    weights = matrix(shape, seed)
    stored = quantize(weights, scheme, "w")
    restored = dequantize(stored, scheme, shape[1])
    steps = np.repeat(np.abs(stored.scales.astype(np.float32)), scheme.block_size, axis=1)[
        :, : shape[1]
    ]
    # A symmetric 4-bit block maps its extreme to -8, so the other side is clipped at 7: a whole
    # step at most. A zero point is rounded, which costs another half.
    allowed = 0.5 if scheme.symmetric and scheme.bits == 8 else 1.0
    # A scale that float16 rounds down clips the extreme: 2 ** -11 of up to 255 steps; below
    # float16's normal range (2 ** -14) it is a multiple of 2 ** -24.
    clipped = 255 * (2.0**-11 * steps + 2.0**-25)
    assert (np.abs(restored - weights) <= allowed * steps * (1 + 1e-5) + clipped).all()


@given(st.integers(0, 99), SCHEMES)
def test_quantizing_agrees_with_one_block_at_a_time(seed: int, scheme: Scheme) -> None:
    weights = matrix((2, 2 * scheme.block_size), seed)
    restored = dequantize(quantize(weights, scheme, "w"), scheme, weights.shape[1])
    top = (1 << scheme.bits) - 1
    for row, column in np.ndindex(2, 2):
        span = slice(column * scheme.block_size, (column + 1) * scheme.block_size)
        block = weights[row, span]
        if scheme.symmetric:
            extreme = max(block, key=abs)
            scale = np.float32(np.float16(abs(extreme) / 127 if scheme.bits == 8 else extreme / -8))
            zero = 1 << (scheme.bits - 1)
        else:
            low, high = min(block.min(), np.float32(0)), max(block.max(), np.float32(0))
            scale = np.float32(np.float16((high - low) / np.float32(top)))
            zero = round(float(-low / scale)) if scale else 0
        for value, found in zip(block, restored[row, span], strict=True):
            level = 0.0 if scale == 0 else float(value) / float(scale)
            candidates = [
                (min(max(round(level + nudge) + zero, 0), top) - zero) * float(scale)
                for nudge in (-1e-3, 0, 1e-3)  # float32 and float64 may round a tie apart
            ]
            assert min(abs(found - c) for c in candidates) <= 1e-5 * abs(float(scale)) + 1e-30


def test_a_value_that_is_not_finite_is_named() -> None:
    weights = np.ones((2, 32), np.float32)
    weights[1, 3] = np.nan
    with pytest.raises(BuildError, match=r"layers\.3.*not finite"):
        quantize(weights, Scheme(4), "model.layers.3.mlp.down_proj.weight")


@pytest.mark.parametrize("bits", [3, 16])
def test_unknown_widths_are_refused(bits: int) -> None:
    with pytest.raises(BuildError, match="bits"):
        Scheme(bits)


@pytest.mark.parametrize("size", [0, 8, 24, 48])
def test_blocks_that_no_kernel_takes_are_refused(size: int) -> None:
    with pytest.raises(BuildError, match="power of two"):
        Scheme(4, size)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [96, 80])
def test_the_kernel_multiplies_with_what_dequantize_returns(
    bits: int, symmetric: bool, width: int
) -> None:
    scheme = Scheme(bits, 32, symmetric)
    weights = matrix((48, width), 3)
    stored = quantize(weights, scheme, "w")
    x = matrix((5, width), 4)
    found = run_matmul(x, stored, scheme, width)
    wanted = x @ dequantize(stored, scheme, width).T
    # float32 sums of 96 products, 3e-7 measured; with activations of 8 bits it would be 1 % off.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def run_matmul(
    x: NDArray[np.float32], stored: QuantizedMatrix, scheme: Scheme, width: int
) -> NDArray[np.float32]:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    names = ["w", "s", "z"][: 2 if stored.zero_points is None else 3]
    arrays = [stored.packed, stored.scales.astype(np.float32), stored.zero_points][: len(names)]
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", N=stored.packed.shape[0],
        K=width, bits=scheme.bits, block_size=scheme.block_size, accuracy_level=0,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(a), n)
         for n, a in zip(names, arrays, strict=True)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    return np.asarray(found)


@given(st.sampled_from([1e-36, 1e-38, 1e-40, 1e-45]), SCHEMES)
def test_blocks_of_tiny_values_come_back_tiny(largest: float, scheme: Scheme) -> None:
    # 1 / scale overflows float32 long before the scale itself is zero.
    weights = matrix((1, scheme.block_size), 0)
    weights *= np.float32(largest) / np.abs(weights).max()
    restored = dequantize(quantize(weights, scheme, "w"), scheme, weights.shape[1])
    assert np.isfinite(restored).all()
    assert np.abs(restored - weights).max() <= np.abs(weights).max()


@given(SCHEMES, st.integers(0, 99))
def test_blocks_of_zeros_stay_zeros(scheme: Scheme, seed: int) -> None:
    weights = matrix((2, 3 * scheme.block_size), seed)
    weights[1, scheme.block_size :] = 0
    restored = dequantize(quantize(weights, scheme, "w"), scheme, weights.shape[1])
    assert not restored[1, scheme.block_size :].any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [32, 128])
def test_the_embeddings_kernel_looks_up_what_dequantize_returns(
    source: Checkpoint, tmp_path: Path, bits: int, symmetric: bool, block_size: int
) -> None:
    import onnx_ir as ir

    scheme = Scheme(bits, block_size, symmetric)
    b = GraphBuilder("embedding")
    ids = b.input("ids", ir.DataType.INT64, ["tokens"])
    b.output(embedding(b, "embedding", ids, stored_as(source, EMBEDDING), scheme), "y")
    asked = np.array([0, 511, 3, 3, 77])
    (found,) = run_graph(b, tmp_path, {"ids": asked})
    np.testing.assert_array_equal(found, restored_from(source, EMBEDDING, scheme)[asked])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [32, 128])
def test_the_experts_kernel_computes_with_what_dequantize_returns(
    source: Checkpoint, tmp_path: Path, bits: int, symmetric: bool, block_size: int
) -> None:
    import onnx_ir as ir

    scheme = Scheme(bits, block_size, symmetric)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 128)).astype(np.float32)
    selection = rng.standard_normal((6, 16)).astype(np.float32)
    mixing = rng.random((6, 16)).astype(np.float32)
    b = GraphBuilder("experts")
    tokens, scores, weights = (
        b.input(name, ir.DataType.FLOAT, ["tokens", width])
        for name, width in (("x", 128), ("selection", 16), ("mixing", 16))
    )
    names = [[f"model.layers.1.mlp.experts.{index}.{role}_proj.weight"
              for role in ("gate", "up", "down")] for index in range(16)]  # fmt: skip
    experts = [Expert(*(stored_as(source, name) for name in three)) for three in names]
    recipe = preset("int4", accuracy_level=0)
    mixed = mixture_of_experts(
        b, "experts", tokens, scores, weights, experts, 4, scheme, scheme, recipe
    )
    b.output(mixed, "y")
    (found,) = run_graph(b, tmp_path, {"x": x, "selection": selection, "mixing": mixing})
    wanted = np.zeros((6, 128))
    for index, three in enumerate(names):
        gate, up, down = (restored_from(source, name, scheme).astype(float) for name in three)
        for token in range(6):
            if index in np.argsort(-selection[token])[:4]:
                gated = gate @ x[token]
                inner = gated / (1 + np.exp(-gated)) * (up @ x[token])
                wanted[token] += mixing[token, index] * (down @ inner)
    # With 8 bits the kernel rounds activations to int8 at every accuracy level: 1.5 % of the
    # largest output, measured. With 4 bits at level 0 only float32 sums differ, 4e-7 measured.
    allowed = 0.03 if bits == 8 else 5e-6
    np.testing.assert_allclose(found, wanted, atol=allowed * np.abs(wanted).max())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("rtn") / "checkpoint", tiny_config())


def stored_as(source: Checkpoint, name: str) -> Matrix:
    return Matrix(source, (Piece(name),))


def restored_from(source: Checkpoint, name: str, scheme: Scheme) -> NDArray[np.float32]:
    weights = source.read(name)
    return dequantize(quantize(weights, scheme, name), scheme, weights.shape[1])
