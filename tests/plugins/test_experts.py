from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.experts import FeedForward, Mlp, Routing
from tests.plugins.kernels import library
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.errors import EngineError

LIBRARY = library()
ISAS = LIBRARY.isas
INTEGERS = st.builds(
    Scheme,
    bits=st.sampled_from([4, 8]),
    block_size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
)
# Of gate and up, and of down: both are float32, or neither.
SCHEMES = st.one_of(st.tuples(INTEGERS, INTEGERS), st.just((FLOAT32, FLOAT32)))


@st.composite
def layers(draw: st.DrawFn, most: int = 20) -> tuple[FeedForward, Any]:
    """A layer of any form and activations for it, of up to ``most`` tokens."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    hidden, inner = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    groups = draw(st.integers(1, 4))
    count = groups * draw(st.integers(1, 5))
    top_groups = draw(st.integers(1, groups))
    top_k = draw(st.integers(1, count // groups * top_groups))
    gate_up, down = draw(SCHEMES)
    experts = [Mlp.random(rng, hidden, inner, gate_up, down) for _ in range(count)]
    rows = rng.standard_normal((count, hidden)).astype(np.float32)
    routing = Routing(
        rows, top_k, groups, top_groups, draw(st.booleans()), draw(st.sampled_from([1.0, 16.0]))
    )
    shared = None
    if draw(st.booleans()):
        shared = Mlp.random(rng, hidden, draw(st.integers(1, 150)), *draw(SCHEMES))
    x = rng.standard_normal((draw(st.integers(1, most)), hidden)).astype(np.float32)
    LIBRARY.set_threads(draw(st.sampled_from([1, 2, 3])))
    return FeedForward(experts, routing, shared), x


@settings(max_examples=60)
@given(layers())
def test_a_layer_adds_its_experts_and_its_shared_mlp(drawn: tuple[FeedForward, Any]) -> None:
    layer, x = drawn
    assert layer.routing is not None
    found, logits = layer("portable", x)
    exact = x.astype(np.float64) @ layer.routing.rows.T.astype(np.float64)
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-4)
    expected, bound = layer.expected(x, logits)
    assert (np.abs(found - expected) <= bound).all()


# Of 70 tokens some experts get a few, which vectors multiply, and some enough for tiles.
@settings(max_examples=60)
@given(layers(70))
def test_every_instruction_set_gives_the_same_bits(drawn: tuple[FeedForward, Any]) -> None:
    layer, x = drawn
    expected, expected_logits = layer("portable", x)
    for isa in ISAS[1:]:
        found, logits = layer(isa, x)
        np.testing.assert_array_equal(logits, expected_logits, isa)
        np.testing.assert_array_equal(found, expected, isa)


@settings(max_examples=30)
@given(layers(70), st.data())
def test_a_token_has_the_same_bits_in_any_batch(
    drawn: tuple[FeedForward, Any], data: st.DataObject
) -> None:
    layer, x = drawn
    isa = ISAS[-1]
    together, _ = layer(isa, x)
    order = data.draw(st.permutations(range(len(x))))
    size = data.draw(st.integers(1, len(x)))
    LIBRARY.set_threads(data.draw(st.sampled_from([1, 2, 3])))
    some = order[:size]
    np.testing.assert_array_equal(layer(isa, x[some], with_logits=False)[0], together[some])


@pytest.mark.parametrize("isa", ISAS)
def test_a_router_in_bfloat16_gives_the_same_bits_as_its_values(isa: str) -> None:
    rng = np.random.default_rng(0)
    scheme = Scheme(4, 32)
    experts = [Mlp.random(rng, 70, 40, scheme, scheme) for _ in range(7)]
    rows = rng.standard_normal((7, 70)).astype(np.float32)
    rows = (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    layer = FeedForward(experts, Routing(rows, 3), None)
    x = rng.standard_normal((9, 70)).astype(np.float32)
    for found, expected in zip(layer(isa, x, is_bfloat=True), layer(isa, x), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_equal_logits_choose_the_first_experts() -> None:
    rng = np.random.default_rng(0)
    scheme = Scheme(8, 32)
    experts = [Mlp.random(rng, 32, 32, scheme, scheme) for _ in range(8)]
    layer = FeedForward(experts, Routing(np.zeros((8, 32), np.float32), 3, 4, 2), None)
    x = rng.standard_normal((2, 32)).astype(np.float32)
    found, logits = layer(ISAS[-1], x)
    assert layer.routing is not None
    assert [set(chosen) for chosen in layer.routing(logits)] == [{0, 1, 2}] * 2
    expected, bound = layer.expected(x, logits)
    assert (np.abs(found - expected) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("scheme", [Scheme(4, 32), FLOAT32])
def test_a_value_that_is_not_finite_spoils_its_own_token_only(
    isa: str, value: float, scheme: Scheme
) -> None:
    rng = np.random.default_rng(0)
    experts = [Mlp.random(rng, 64, 64, scheme, scheme) for _ in range(6)]
    shared = Mlp.random(rng, 64, 96, scheme, scheme)
    rows = rng.standard_normal((6, 64)).astype(np.float32)
    layer = FeedForward(experts, Routing(rows, 2), shared)
    x = rng.standard_normal((8, 64)).astype(np.float32)
    clean, _ = layer(isa, x)
    x[3, 7] = value
    found, _ = layer(isa, x)
    assert not np.isfinite(found[3]).any()
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(clean, 3, 0))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("hidden", "inner", "scheme"),
    [(2048, 1408, Scheme(4, 32)), (64, 10944, Scheme(4, 128)), (2048, 1408, FLOAT32)],
)
def test_the_widths_of_lite_work(isa: str, hidden: int, inner: int, scheme: Scheme) -> None:
    rng = np.random.default_rng(hidden)
    mlp = Mlp.random(rng, hidden, inner, scheme, scheme)
    x = rng.standard_normal((3, hidden)).astype(np.float32)
    found, _ = FeedForward([], None, mlp)(isa, x)
    expected, bound = mlp(x)
    # Of some thousand roundings more than one may flip.
    assert (np.abs(found - expected) <= 4 * bound).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"top_k": 0}, "the best 0 of 8"),
        ({"top_k": 9}, "the best 9 of 8"),
        ({"top_k": 5, "groups": 2}, "the best 5 of 4"),
        ({"groups": 3}, "1 of 3 groups of 8"),
        ({"groups": 0}, "of 0 groups"),
        ({"groups": 2, "top_groups": 3}, "3 of 2 groups"),
        ({"rows": np.zeros((513, 32), np.float32)}, "513 rows"),
    ],
)
def test_a_routing_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(0)
    scheme = Scheme(8, 32)
    experts = [Mlp.random(rng, 32, 32, scheme, scheme) for _ in range(8)]
    routing = replace(Routing(np.zeros((8, 32), np.float32), 3), **changed)
    with pytest.raises(EngineError, match=message):
        FeedForward(experts, routing, None)(ISAS[-1], np.zeros((1, 32), np.float32))


def test_matrices_that_do_not_fit_together_are_refused() -> None:
    rng = np.random.default_rng(0)
    scheme = Scheme(8, 32)
    mlp, other = Mlp.random(rng, 32, 64, scheme, scheme), Mlp.random(rng, 32, 48, scheme, scheme)
    wrong = replace(mlp, down=other.down)
    with pytest.raises(EngineError, match="do not fit together"):
        FeedForward([], None, wrong)(ISAS[-1], np.zeros((1, 32), np.float32))
    mixed = Mlp.random(rng, 32, 64, scheme, FLOAT32)
    with pytest.raises(EngineError, match="both are float32, or neither"):
        FeedForward([], None, mixed)(ISAS[-1], np.zeros((1, 32), np.float32))
    with pytest.raises(EngineError, match="neither experts nor"):
        FeedForward([], None, None)(ISAS[-1], np.zeros((1, 32), np.float32))
