from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.kernels import Weights, library, linear, rounded, roundings
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.errors import EngineError

LIBRARY = library()
ISAS = LIBRARY.isas
SCHEMES = st.one_of(
    st.builds(
        Scheme,
        bits=st.sampled_from([4, 8]),
        block_size=st.sampled_from([32, 64, 128]),
        symmetric=st.booleans(),
    ),
    st.just(FLOAT32),
)
THREADS = st.sampled_from([1, 2, 3])
# A few tokens are multiplied by vectors, many by tiles, in groups of up to 64.
TOKENS = st.one_of(st.integers(1, 30), st.integers(31, 140))
# A thread takes panels of 16 rows, one by one or, of many, some at once.
ROWS = st.one_of(st.integers(1, 70), st.integers(300, 560))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 400), TOKENS, SCHEMES,
    THREADS,
)  # fmt: skip
def test_a_product_is_that_of_rounded_activations_and_weights(
    seed: int, rows: int, width: int, tokens: int, scheme: Scheme, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = Weights.random(rng, rows, width, scheme)
    x = rng.standard_normal((tokens, width)).astype(np.float32)
    LIBRARY.set_threads(threads)
    found = linear("portable", x, weights)
    inputs, values = rounded(x, scheme), weights.values.astype(np.float64)
    # One rounding to float32 a block, or a column of float32, relative to the sum of magnitudes.
    bound = np.abs(inputs) @ np.abs(values).T * roundings(scheme, width) * 2.0**-24
    assert (np.abs(found - inputs @ values.T) <= bound + 1e-30).all()


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), ROWS, st.integers(1, 400), TOKENS, SCHEMES,
    THREADS,
)  # fmt: skip
def test_every_instruction_set_gives_the_same_bits(
    seed: int, rows: int, width: int, tokens: int, scheme: Scheme, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = Weights.random(rng, rows, width, scheme)
    x = rng.standard_normal((tokens, width)).astype(np.float32)
    LIBRARY.set_threads(threads)
    expected = linear("portable", x, weights)
    for isa in ISAS:
        np.testing.assert_array_equal(linear(isa, x, weights), expected, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scheme", [Scheme(4, 32), FLOAT32])
@pytest.mark.parametrize(("rows", "width"), [(1408, 256), (48, 1408), (32, 10944)])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(
    isa: str, rows: int, width: int, scheme: Scheme
) -> None:
    rng = np.random.default_rng(rows)
    weights = Weights.random(rng, rows, width, scheme)
    x = rng.standard_normal((41, width)).astype(np.float32)
    LIBRARY.set_threads(2)
    together = linear(isa, x, weights)
    for start, stop in ((0, 1), (0, 41), (5, 9), (7, 40), (40, 41), (11, 35)):
        np.testing.assert_array_equal(linear(isa, x[start:stop], weights), together[start:stop])


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 300), st.integers(1, 200), SCHEMES,
    st.sampled_from(ISAS[1:] or ISAS), st.data(),
)  # fmt: skip
def test_a_row_has_the_same_bits_however_many_rows_stand_beside_it(
    seed: int, rows: int, width: int, tokens: int, scheme: Scheme, isa: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    weights = Weights.random(rng, rows, width, scheme)
    x = rng.standard_normal((tokens, width)).astype(np.float32)
    LIBRARY.set_threads(data.draw(THREADS))
    together = linear(isa, x, weights)
    start = data.draw(st.integers(0, tokens - 1))
    stop = data.draw(st.integers(start + 1, tokens))
    LIBRARY.set_threads(data.draw(THREADS))
    np.testing.assert_array_equal(linear(isa, x[start:stop], weights), together[start:stop])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", [Scheme(4, 32), FLOAT32])
def test_a_value_that_is_not_finite_spoils_its_own_token_only(
    isa: str, value: float, scheme: Scheme
) -> None:
    rng = np.random.default_rng(1)
    weights = Weights.random(rng, 33, 96, scheme)
    x = rng.standard_normal((9, 96)).astype(np.float32)
    clean = linear(isa, x, weights)
    x[4, 50] = value
    found = linear(isa, x, weights)
    assert not np.isfinite(found[4]).any()
    others = np.arange(9) != 4
    np.testing.assert_array_equal(found[others], clean[others])


@pytest.mark.parametrize("isa", ISAS)
def test_zeros_and_magnitudes_of_any_size_are_multiplied(isa: str) -> None:
    rng = np.random.default_rng(2)
    weights = Weights.random(rng, 16, 128, Scheme(8, 64, symmetric=False))
    scales = np.array([0, 1e-44, 1e-38, 1e-20, 1, 1e20, 1e30], np.float32)
    x = rng.standard_normal((1, 128)).astype(np.float32) * scales[:, None]
    expected = rounded(x, weights.scheme) @ weights.values.astype(np.float64).T
    found = linear(isa, x, weights)
    # What is below 2^-100 counts as zero: its scale's reciprocal may be infinite.
    expected[1:3] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-28)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("scheme", [Scheme(8, 128, symmetric=False), Scheme(8, 128), Scheme(4, 32)])
def test_the_largest_sums_of_a_block_are_exact(isa: str, tokens: int, scheme: Scheme) -> None:
    # Sums of a block are read as floats beside 2^23, which holds what is below 2^22.
    lowest, highest = np.zeros((16, 2), np.uint8), np.full((16, 2), scheme.top, np.uint8)
    codes, zeros = np.concatenate([lowest, highest]), np.concatenate([highest, lowest])
    codes = np.repeat(codes[:, :, None], scheme.block_size, 2)
    scales = np.ones((32, 2), np.float16)
    weights = Weights.of(codes, scales, zeros, 2 * scheme.block_size, scheme)
    x = np.ones((tokens, weights.width), np.float32)
    x[::2] = -1
    x[:, -1] /= 3  # odd sums, too
    expected = rounded(x, scheme) @ weights.values.astype(np.float64).T
    # Three roundings to float32, and of the scale.
    np.testing.assert_allclose(linear(isa, x, weights), expected, rtol=4 * 2.0**-24)


@pytest.mark.parametrize(
    ("scheme", "field", "value", "message"),
    [(Scheme(4, 32), "bits", 3, "bits: 3"), (Scheme(4, 32), "block", 48, "block: 48"),
     (Scheme(4, 32), "rows", 0, "matrix: 0 x"), (Scheme(4, 32), "width", -1, "x -1"),
     (Scheme(4, 32), "scales", None, "missing"),
     (Scheme(4, 32), "bits", 32, "block: 32, expected 0"),
     (FLOAT32, "block", 32, "block: 32, expected 0"),
     (FLOAT32, "rows", 1 << 33, "matrix: 8589934592 x"), (FLOAT32, "codes", None, "missing"),
     (FLOAT32, "scales", 64, "beside 32 bits"), (FLOAT32, "zeros", 64, "beside 32 bits")],
)  # fmt: skip
def test_a_matrix_of_another_form_is_refused(
    scheme: Scheme, field: str, value: int | None, message: str
) -> None:
    weights = Weights.random(np.random.default_rng(3), 16, 64, scheme)

    class Wrong(Weights):
        @property
        def view(self):  # type: ignore[no-untyped-def]
            found = super().view
            setattr(found, field, value)
            return found

    wrong = Wrong(weights.scheme, weights.width, weights.rows, weights.panels)
    with pytest.raises(EngineError, match=message):
        linear(ISAS[-1], np.zeros((2, 64), np.float32), wrong)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("exponents", [(0, 1), (-80, 40), (-149, -60)])
def test_float32_sums_go_from_the_first_column_to_the_last(
    isa: str, exponents: tuple[int, int]
) -> None:
    # Of small exponents some products and sums have no normal float32, or none at all.
    rng = np.random.default_rng(4)
    weights = Weights.random(rng, 37, 301, FLOAT32)
    x = np.ldexp(rng.standard_normal((7, 301)), rng.integers(*exponents, (7, 301)))
    x = x.astype(np.float32)
    sums = np.zeros((7, 37), np.float32)
    for k in range(301):
        # A product of two float32 is exact in 64 bits of precision, and so is the rounded sum but
        # for what two roundings, of 64 and of 24 bits, make of a tie.
        exact = x[:, k, None].astype(np.longdouble) * weights.values[:, k].astype(np.longdouble)
        sums = (sums + exact).astype(np.float32)
    np.testing.assert_array_equal(linear(isa, x, weights), sums)


def test_an_instruction_set_that_the_machine_lacks_is_refused() -> None:
    weights = Weights.random(np.random.default_rng(3), 16, 64, Scheme(4, 32))
    with pytest.raises(EngineError, match="this machine has only portable"):
        linear("mmx", np.zeros((2, 64), np.float32), weights)
