"""The simulation comes to what can be computed, where it can."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcoder.export.scale.simulation import (
    MEASURED,
    decode,
    decode_seconds,
    prefill,
    prefill_seconds,
)

# Whole numbers: sums are exact.
STAGES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=8)


@settings(max_examples=40)
@given(STAGES, st.integers(1, 12))
def test_alike_groups_take_what_the_slowest_stage_or_the_way_takes(
    stages: list[tuple[int, int]], groups: int
) -> None:
    work, transfers = [float(w) for w, _ in stages], [float(t) for _, t in stages]
    run = decode([[w] * groups for w in work], [[t] * groups for t in transfers])
    expected = decode_seconds(work, transfers, groups)
    # A round more or less of what repeats within the rounds that are measured.
    assert run.seconds == pytest.approx(expected, rel=2 * groups / MEASURED)
    assert all(busy <= 1 + 1e-9 for busy in run.busy)


@given(STAGES, st.integers(1, 40))
def test_alike_chunks_take_the_way_and_the_slowest_stage_for_each_further_one(
    stages: list[tuple[int, int]], chunks: int
) -> None:
    work, transfers = [float(w) for w, _ in stages], [float(t) for _, t in stages]
    run = prefill([[w] * chunks for w in work], [[t] * chunks for t in transfers])
    assert run.seconds == prefill_seconds(work, transfers, chunks)


@given(st.integers(1, 8), st.integers(1, 32))
def test_equal_stages_leave_the_bubble_that_gpipe_states(stages: int, chunks: int) -> None:
    run = prefill([[1.0] * chunks] * stages, [[0.0] * chunks] * stages)
    assert run.bubble == pytest.approx((stages - 1) / (chunks + stages - 1))


def test_one_group_leaves_all_stages_but_one_waiting() -> None:
    run = decode([[1.0]] * 4, [[0.0]] * 4)
    assert run.bubble == pytest.approx(3 / 4)
    assert decode([[1.0] * 4] * 4, [[0.0] * 4] * 4).bubble == pytest.approx(0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_unequal_groups_are_no_faster_than_the_busiest_stage_and_no_slower_than_in_turn(
    groups: list[int], stages: int
) -> None:
    work = [[float(each) for each in groups]] * stages
    run = decode(work, [[0.0] * len(groups)] * stages)
    assert sum(groups) <= run.seconds * (1 + 1e-9)
    assert run.seconds <= stages * sum(groups) * (1 + 1e-9)
