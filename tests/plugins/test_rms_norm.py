"""The norm, as ONNX Runtime calls it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.kernels import Floats, library
from tests.plugins.test_operators import session

LIBRARY = library()
EPSILON = 1e-6


def norm(x: Floats, weight: Floats, residual: Floats | None = None) -> list[Floats]:
    inputs = ["x", "weight"] if residual is None else ["x", "weight", "residual"]
    stored = {"weight": weight} | ({} if residual is None else {"residual": residual})
    outputs = ["y"] if residual is None else ["y", "total"]
    found: list[Floats] = session("RmsNorm", inputs, outputs, stored, {"epsilon": EPSILON}).run(
        None, {"x": x}
    )
    return found


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([1, 7, 16, 31, 256, 2048]),
    st.booleans(), st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_it_is_the_formula_and_a_row_has_its_bits_alone(
    seed: int, tokens: int, width: int, has_residual: bool, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    x, residual = (rng.standard_normal((tokens, width)).astype(np.float32) for _ in range(2))
    weight = rng.uniform(0.5, 1.5, width).astype(np.float32)
    LIBRARY.set_threads(threads)
    y, *total = norm(x, weight, residual if has_residual else None)
    wide = x.astype(np.float64)
    if has_residual:
        np.testing.assert_array_equal(total[0], x + residual)
        wide = total[0].astype(np.float64)
    wanted = wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + EPSILON) * weight
    # A sum of `width` squares in sixteen parts, and five roundings behind it.
    np.testing.assert_allclose(y, wanted, rtol=(width / 16 + 8) * 2**-24)
    for t in range(0, tokens, 7):
        alone = norm(x[t : t + 1], weight, residual[t : t + 1] if has_residual else None)
        np.testing.assert_array_equal(alone[0][0], y[t])


def test_sizes_that_do_not_fit_are_refused() -> None:
    x, weight = np.zeros((3, 8), np.float32), np.ones(8, np.float32)
    with pytest.raises(Exception, match=r"x: \[3, 8\], expected \[3, 9\]"):
        norm(x, np.ones(9, np.float32))
    with pytest.raises(Exception, match=r"residual: \[2, 8\], expected \[3, 8\]"):
        norm(x, weight, np.zeros((2, 8), np.float32))
