from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from trtcoder.evaluation.intervals import mcnemar, wilson


@pytest.mark.parametrize(("passed", "asked"), [(133, 164), (1, 3), (5, 10), (900, 1033)])
def test_the_interval_ends_where_the_share_would_be_just_that_unlikely(
    passed: int, asked: int
) -> None:
    z = NormalDist().inv_cdf(0.975)
    for end in wilson(passed, asked):
        deviation = math.sqrt(end * (1 - end) / asked)
        assert abs(passed / asked - end) == pytest.approx(z * deviation, rel=1e-9)


def test_no_pass_and_nothing_but_passes_leave_one_side_open() -> None:
    z2 = NormalDist().inv_cdf(0.975) ** 2
    assert wilson(0, 164) == pytest.approx((0.0, z2 / (164 + z2)))
    assert wilson(164, 164) == pytest.approx((164 / (164 + z2), 1.0))


def test_the_interval_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (6, 0, 2 / 2**6), (0, 6, 2 / 2**6), (8, 2, 0.109375)],
)
def test_flips_are_judged_as_those_of_a_coin(lost: int, won: int, p_value: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p_value, rel=1e-9)


def test_thousands_of_flips_are_no_overflow() -> None:
    assert mcnemar(3000, 2000) < 1e-30
