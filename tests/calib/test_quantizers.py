"""Each quantizer against a slow and plain one of the same aim."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trtcoder.calib.observers import ActivationObserver
from trtcoder.calib.quantizers import awq, gptq
from trtcoder.calib.quantizers.clip import clipped_grid
from trtcoder.calib.quantizers.rounding import round_to_grid, round_to_nearest
from trtcoder.calib.storage.blocks import Grid, dequantize, grid_of
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
SCHEMES = [
    Scheme(bits, size, symmetric)
    for bits in (4, 8)
    for size in (32, 64, 128)
    for symmetric in (True, False)
]
each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def weights_of(shape: tuple[int, int], seed: int) -> Floats:
    # Heavy tails, as the weights of language models have them: clipping matters.
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32) * np.float32(0.05)


def observed(tokens: int, width: int, seed: int) -> tuple[Floats, ActivationObserver]:
    """Return activations whose channels differ in size and lean on each other."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((tokens, width)) @ rng.standard_normal((width, width))
    x = (mixed * np.exp(rng.standard_normal(width))).astype(np.float32)
    observer = ActivationObserver("x", width, with_hessian=True)
    observer.add(x[: tokens // 3])
    observer.add(x[tokens // 3 :])
    return x, observer


def output_error(x: Floats, weights: Floats, restored: Floats) -> float:
    return float(np.square(x @ (restored - weights).T.astype(np.float64)).sum())


@given(st.integers(0, 10_000), st.sampled_from(SCHEMES))
def test_a_clipped_grid_never_loses_more_than_rounding_to_nearest(
    seed: int, scheme: Scheme
) -> None:
    width = scheme.block_size + 7
    weights = weights_of((3, width), seed)
    importance = np.random.default_rng(seed).exponential(1, width).astype(np.float32)
    clipped = round_to_grid(weights, clipped_grid(weights, importance, scheme, "w"), scheme, "w")
    nearest = round_to_nearest(weights, scheme, "w")
    errors = []
    for matrix, _ in (clipped, nearest):
        difference = dequantize(matrix, scheme, width) - weights
        errors.append(np.square(difference) @ importance)
    # Equal blocks may differ in float32's last digits; scales are rounded to float16 after the
    # search, which is worth up to 2 ** -11 of a value.
    assert (errors[0] <= errors[1] * 1.02 + 1e-9).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_clipped_grid_is_nearly_the_best_of_all_grids(symmetric: bool) -> None:
    scheme = Scheme(4, 32, symmetric)
    found, best = [], []
    for seed in range(20):
        weights = weights_of((1, 32), seed)
        importance = np.random.default_rng(seed).exponential(1, 32).astype(np.float32)
        grid = clipped_grid(weights, importance, scheme, "w")
        found += weighted_errors(weights, grid.scales, grid.zeros, importance).tolist()
        largest = np.abs(weights).max()
        # An even number of steps, so that none is zero.
        scales = np.linspace(-largest / 4, largest / 4, 4000, dtype=np.float32)[:, None]
        zeros = [8] if symmetric else range(16)
        best.append(min(weighted_errors(weights, scales, zero, importance).min() for zero in zeros))
    # The search tries 38 grids a block where brute force tries thousands.
    assert np.mean(found) <= 1.10 * np.mean(best)


def weighted_errors(
    weights: Floats, scales: Floats, zeros: Floats | int, importance: Floats
) -> Floats:
    codes = np.clip(np.rint(weights / scales) + zeros, 0, 15)
    errors: Floats = np.square((codes - zeros) * scales - weights) @ importance
    return errors


def plain_gptq(weights: Floats, hessian: NDArray[np.float64], grid: Grid, scheme: Scheme) -> Floats:
    """Optimal brain quantization, one column after another, with the inverse worked out anew."""
    size = scheme.block_size
    left = weights.astype(np.float64)
    stored = np.zeros_like(left)
    remaining = list(np.argsort(-np.diag(hessian), kind="stable"))
    damped = hessian + gptq.DAMPING * np.diag(hessian).mean() * np.eye(len(hessian))
    while remaining:
        inverse = np.linalg.inv(damped[np.ix_(remaining, remaining)])
        column = remaining[0]
        scale, zero = grid.scales[:, column // size], grid.zeros[:, column // size]
        safe = np.where(scale == 0, 1, scale)
        code = np.clip(np.rint(left[:, column] / safe) + zero, 0, scheme.top)
        stored[:, column] = np.where(scale == 0, 0, (code - zero) * scale)
        error = (left[:, column] - stored[:, column]) / inverse[0, 0]
        left[:, remaining] -= error[:, None] * inverse[0]
        remaining.pop(0)
    return stored.astype(np.float32)


@each_scheme
@pytest.mark.parametrize("width", [40, 160])
def test_gptq_is_optimal_brain_quantization(scheme: Scheme, width: int) -> None:
    weights = weights_of((6, width), 1)
    _, observer = observed(4 * width, width, 2)
    hessian = observer.hessian()
    grid = grid_of(round_to_nearest(weights, scheme, "w")[0], scheme)
    found = gptq.quantize(weights, gptq.ColumnOrder(hessian, "x"), grid, scheme)
    restored = dequantize(found, scheme, width)
    plain = plain_gptq(weights, hessian.astype(np.float64), grid, scheme)
    # A value on the border of two codes may go the other way in float32, and then all behind it.
    assert (np.isclose(restored, plain, atol=1e-6).all(axis=1)).mean() >= 0.5
    x, _ = observed(4 * width, width, 2)
    errors = [output_error(x, weights, each) for each in (restored, plain)]
    assert errors[0] <= 1.05 * errors[1]


@each_scheme
def test_gptq_loses_less_than_rounding_on_the_same_grid(scheme: Scheme) -> None:
    width = 160
    weights = weights_of((8, width), 3)
    x, observer = observed(600, width, 4)
    rounded, _ = round_to_nearest(weights, scheme, "w")
    columns = gptq.ColumnOrder(observer.hessian(), "x")
    found = gptq.quantize(weights, columns, grid_of(rounded, scheme), scheme)
    better, worse = (
        output_error(x, weights, dequantize(matrix, scheme, width)) for matrix in (found, rounded)
    )
    assert better < 0.8 * worse


def test_gptq_comes_close_to_the_best_of_all_codes() -> None:
    scheme, width = Scheme(4, 16), 4
    ratios = []
    for seed in range(30):
        weights = weights_of((1, width), seed)
        _, observer = observed(50, width, seed)
        hessian = observer.hessian().astype(np.float64)
        rounded, _ = round_to_nearest(weights, scheme, "w")
        grid = grid_of(rounded, scheme)
        codes = np.array(list(itertools.product(range(16), repeat=width)))
        differences = (codes - grid.zeros[0, 0]) * grid.scales[0, 0] - weights[0]
        best = np.einsum("nk,kl,nl->n", differences, hessian, differences).min()
        found = gptq.quantize(weights, gptq.ColumnOrder(hessian.astype(np.float32), "s"), grid,
                              scheme)  # fmt: skip
        off = dequantize(found, scheme, width)[0] - weights[0]
        ratios.append(float(off @ hessian @ off) / best)
    # Greedy column by column, it finds the very best in most cases.
    assert np.median(ratios) < 1.2


@pytest.mark.parametrize("bits", [4, 8])
def test_awq_takes_the_power_with_the_least_error_of_the_product(bits: int) -> None:
    scheme, width = Scheme(bits, 32), 64
    matrices = [weights_of((24, width), seed) for seed in (5, 6)]
    x, observer = observed(300, width, 7)

    def restore(matrix: Floats) -> Floats:
        return dequantize(round_to_nearest(matrix, scheme, "w")[0], scheme, width)

    found = awq.search(observer.statistics(), observer.hessian(), [(m, restore) for m in matrices])

    def error(scale: Floats) -> float:
        return sum(output_error(x, m, restore(m * scale) / scale) for m in matrices)

    mean = np.abs(x).mean(axis=0)
    errors = [error(awq.channel_scale(mean, alpha)) for alpha in awq.ALPHAS]
    # The Hessian is summed up in float32, the outputs here in float64.
    assert error(found) <= 1.001 * min(errors)
    assert min(errors) < 0.95 * errors[0]


def test_statistics_are_those_of_all_activations_at_once() -> None:
    x, observer = observed(90, 24, 8)
    statistics = observer.statistics()
    np.testing.assert_allclose(statistics.mean, np.abs(x).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics.second, np.square(x).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(statistics.largest, np.abs(x).max(axis=0))
    assert statistics.amax == np.abs(x).max()
    wanted = x.T.astype(np.float64) @ x / len(x)
    # float32 sums of 90 products against float64, 4e-6 of the largest at most, measured.
    np.testing.assert_allclose(observer.hessian(), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_a_statistic_that_is_not_finite_is_named() -> None:
    observer = ActivationObserver("layers.7/mlp/product", 4, with_hessian=True)
    with pytest.raises(BuildError, match=r"layers\.7/mlp/product: .* not finite"):
        observer.add(np.array([[1, np.inf, 0, 0]], np.float32))


def test_an_activation_that_nothing_reached_is_named() -> None:
    observer = ActivationObserver("layers.7/mlp/product", 4, with_hessian=True)
    observer.add(np.zeros((0, 4), np.float32))
    with pytest.raises(BuildError, match=r"layers\.7/mlp/product: no calibration token"):
        observer.statistics()


def test_a_hessian_of_zeros_is_named() -> None:
    observer = ActivationObserver("layers.7/mlp/product", 4, with_hessian=True)
    observer.add(np.zeros((3, 4), np.float32))
    with pytest.raises(BuildError, match=r"layers\.7/mlp/product: .*zero or not finite"):
        gptq.ColumnOrder(observer.hessian(), observer.where)
