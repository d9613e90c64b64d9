from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trtcoder.calib.rtn import dequantize, pack, quantize, unpack
from trtcoder.calib.scheme import Scheme
from trtcoder.errors import BuildError

SCHEMES = st.builds(Scheme, st.sampled_from([4, 8]), st.sampled_from([16, 32, 128]), st.booleans())
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 200))


def matrix(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32) * np.float32(10.0 ** rng.integers(-3, 3))
    values[rng.random(shape) < 0.1] = 0
    return values


@given(st.integers(0, 99), st.integers(1, 9), st.sampled_from([4, 8]))
def test_packing_loses_nothing(seed: int, count: int, bits: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (3, count)).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, count), codes)


@given(SHAPES, SCHEMES, st.integers(0, 99))
def test_every_value_is_at_most_half_a_step_off(
    shape: tuple[int, int], scheme: Scheme, seed: int
) -> None:
    weights = matrix(shape, seed)
    stored = quantize(weights, scheme, "w")
    restored = dequantize(stored, scheme, shape[1])
    steps = np.repeat(np.abs(stored.scales), scheme.block_size, axis=1)[:, : shape[1]]
    # A symmetric 4-bit block maps its extreme to -8, so the other side is clipped at 7: a whole
    # step at most. A zero point is rounded, which costs another half.
    allowed = 0.5 if scheme.symmetric and scheme.bits == 8 else 1.0
    assert (np.abs(restored - weights) <= allowed * steps * (1 + 1e-5) + 1e-30).all()


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
            scale = np.float32(abs(extreme) / 127 if scheme.bits == 8 else extreme / -8)
            zero = 1 << (scheme.bits - 1)
        else:
            low, high = min(block.min(), np.float32(0)), max(block.max(), np.float32(0))
            scale = np.float32((high - low) / np.float32(top))
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
    # float32 products of 96 values; without float32 activations the kernel would be 1 % off.
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def run_matmul(x, stored, scheme, width):
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    names = ["w", "s", "z"][: 2 if stored.zero_points is None else 3]
    arrays = [stored.packed, stored.scales, stored.zero_points][: len(names)]
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
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
