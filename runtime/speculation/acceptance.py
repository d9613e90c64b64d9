"""How often guesses come true."""

from __future__ import annotations

# By the bits of the number of tokens that agreed: 0, 1, 2 to 3, 4 to 7, and so on to 32 and more.
_FIRST = (0.2, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95)
_LAST = len(_FIRST) - 1
# Guesses that what was assumed before counts for, and that are remembered.
_TRUST = 4.0
_KEPT = 64.0


class Acceptance:
    """Counts of guesses by how much agreed before them.

    A guess is judged when its token is known, whether it was drafted or not: looking costs no row
    of a step, so there is always a recent answer to whether drafting would pay.
    """

    def __init__(self, before: Acceptance | None = None) -> None:
        """Start; ``before`` counts the same guesses among others, and is believed at first."""
        self._before = before
        self._tries = [0.0] * len(_FIRST)
        self._hits = [0.0] * len(_FIRST)

    def note(self, agreed: int, came: bool) -> None:
        """Count a guess before which ``agreed`` tokens did."""
        kind = min(agreed.bit_length(), _LAST)
        if self._tries[kind] >= _KEPT:
            self._tries[kind] -= 1.0
            self._hits[kind] *= 1.0 - 1.0 / _KEPT
        self._tries[kind] += 1.0
        self._hits[kind] += came
        if self._before is not None:
            self._before.note(agreed, came)

    def chance(self, agreed: int) -> float:
        """Return the probability of the guess before which ``agreed`` tokens did, 0 to 1."""
        kind = min(agreed.bit_length(), _LAST)
        first = _FIRST[kind] if self._before is None else self._before.chance(agreed)
        return (self._hits[kind] + _TRUST * first) / (self._tries[kind] + _TRUST)
