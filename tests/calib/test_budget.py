from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.calib.budget import Choice, Choices, Option
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

SCHEMES = [Scheme(4, 128), Scheme(4, 32), Scheme(8, 128), Scheme(8, 32)]
ALIKE = (("experts_gate_up", "experts_down"),)
KINDS = ("attention", "experts_gate_up", "experts_down")


@st.composite
def options(draw: st.DrawFn) -> dict[str, list[Option]]:
    number = st.integers(1, 1000)
    return {
        kind: [Option(scheme, draw(number), draw(number) / 1000) for scheme in SCHEMES]
        for kind in KINDS
    }


def every_choice(found: dict[str, list[Option]]) -> list[Choice]:
    choices = [
        Choice(dict(zip(found, chosen, strict=True)))
        for chosen in itertools.product(*found.values())
    ]
    return [
        choice
        for choice in choices
        if all(choice.schemes[a].block_size == choice.schemes[b].block_size for a, b in ALIKE)
    ]


@given(options(), st.floats(0.01, 3))
def test_the_smallest_choice_keeps_the_limit_and_no_other_is_smaller(
    found: dict[str, list[Option]], limit: float
) -> None:
    allowed = [choice for choice in every_choice(found) if choice.kl <= limit]
    if not allowed:
        with pytest.raises(BuildError, match="the best is expected to cost"):
            Choices(found, ALIKE).smallest(limit)
        return
    choice = Choices(found, ALIKE).smallest(limit)
    # Sums of three numbers may differ in the last digit by their order.
    assert choice.kl <= limit + 1e-9
    assert choice.nbytes == min(each.nbytes for each in allowed)


@given(options(), st.integers(1, 3000))
def test_the_best_choice_fits_and_no_other_loses_less(
    found: dict[str, list[Option]], target: int
) -> None:
    allowed = [choice for choice in every_choice(found) if choice.nbytes <= target]
    if not allowed:
        with pytest.raises(BuildError, match="the smallest takes"):
            Choices(found, ALIKE).best(target)
        return
    choice = Choices(found, ALIKE).best(target)
    assert choice.nbytes <= target
    assert choice.kl == pytest.approx(min(each.kl for each in allowed), abs=1e-9)
    sizes = {choice.schemes[kind].block_size for kind in KINDS[1:]}
    assert len(sizes) == 1
