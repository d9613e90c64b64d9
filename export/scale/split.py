"""Cuts a row of layers into stages: whole layers, in their order, each in exactly one stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate


def split(
    costs: Sequence[float], stages: int, *, fits: Callable[[range], bool]
) -> list[range] | None:
    """Return ``stages`` ranges of layers whose dearest stage is as cheap as it can be.

    Args:
        costs: of each layer; what stands before the first and behind the last layer is theirs.
        stages: at least 1 and at most as many as there are layers.
        fits: whether a stage of these layers may be.

    Returns:
        The ranges, or None where no cut has only stages that fit.
    """
    until = [0.0, *accumulate(costs)]

    @cache
    def best(start: int, left: int) -> tuple[float, tuple[int, ...]] | None:
        """Return the dearest stage of the layers from ``start``, and where each of them ends."""
        if left == 1:
            whole = range(start, len(costs))
            return (until[-1] - until[start], (len(costs),)) if fits(whole) else None
        found = None
        for end in range(start + 1, len(costs) - left + 2):
            if not fits(range(start, end)):
                continue
            rest = best(end, left - 1)
            if rest is None:
                continue
            dearest = max(until[end] - until[start], rest[0])
            if found is None or dearest < found[0]:
                found = (dearest, (end, *rest[1]))
        return found

    found = best(0, stages)
    if found is None:
        return None
    ends = found[1]
    return [range(start, end) for start, end in zip((0, *ends), ends, strict=False)]
