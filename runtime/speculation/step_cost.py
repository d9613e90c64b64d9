"""What a step takes, and what each drafted token adds to it, as measured."""

from __future__ import annotations

_WEIGHT = 0.1
# A step that the system held up counts as at most so much of what was expected.
_OUTLIER = 2.0
# How fast a row's measured cost is forgotten while no row is drafted.
_FORGET = 0.003
_LEAST = 0.01


class StepCost:
    """Running means by the number of answers in a step, all in seconds."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        self._row: dict[int, float] = {}

    def plain(self, answers: int) -> float | None:
        """Return what a step of so many answers takes without drafts; None before one was."""
        return self._plain.get(answers)

    def row(self, answers: int) -> float:
        """Return what a drafted token adds to a step of so many answers, of which one was noted."""
        found = self._row.get(answers)
        return self._assumed(answers) if found is None else found

    def note(self, answers: int, drafted: int, seconds: float) -> None:
        """Note what a step of so many answers and drafted tokens took."""
        if not drafted:
            self._plain[answers] = _mean(self._plain.get(answers), seconds)
            if answers in self._row:
                self._row[answers] += _FORGET * (self._assumed(answers) - self._row[answers])
            return
        plain = self._plain.get(answers)
        if plain is not None:
            found = max((seconds - plain) / drafted, _LEAST * plain)
            self._row[answers] = _mean(self._row.get(answers), found)

    def _assumed(self, answers: int) -> float:
        """Return a row's cost before it was measured: a step is as dear as two more rows."""
        return self._plain[answers] / (answers + 2)


def _mean(known: float | None, found: float) -> float:
    if known is None:
        return found
    return known + _WEIGHT * (min(found, _OUTLIER * known) - known)
