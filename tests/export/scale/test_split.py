from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from trtcoder.export.scale.split import split

COSTS = st.lists(st.integers(1, 20), min_size=1, max_size=9)


def cuts(layers: int, stages: int) -> list[list[range]]:
    """Return every way to cut."""
    return [
        [range(a, b) for a, b in zip((0, *inner), (*inner, layers), strict=True)]
        for inner in combinations(range(1, layers), stages - 1)
    ]


@given(COSTS, st.data())
def test_every_layer_is_in_exactly_one_stage_and_no_cut_is_better(
    costs: list[int], data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    most = data.draw(st.integers(1, len(costs)))

    def fits(cut: range) -> bool:
        return len(cut) <= most

    def dearest(found: list[range]) -> int:
        return max(sum(costs[layer] for layer in cut) for cut in found)

    found = split(costs, stages, fits=fits)
    possible = [each for each in cuts(len(costs), stages) if all(map(fits, each))]
    if found is None:
        assert not possible
        return
    assert [layer for cut in found for layer in cut] == list(range(len(costs)))
    assert len(found) == stages
    assert all(cut and fits(cut) for cut in found)
    assert dearest(found) == min(map(dearest, possible))
