"""How sure a share is, and whether two differ: Wilson's interval and McNemar's exact test."""

from __future__ import annotations

import math
from fractions import Fraction

# Of a normal distribution: 95 % lie within so many standard deviations.
_Z = 1.959963984540054


def wilson(passed: int, asked: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927): that of all problems of this kind.

    It stays within 0 and 1, and tells something for no passes too, which the normal one does not.
    """
    if not asked:
        return 0.0, 1.0
    share, z2 = passed / asked, _Z**2 / asked
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / asked + z2 / (4 * asked))
    low = 0.0 if passed == 0 else max(0.0, middle - half)
    high = 1.0 if passed == asked else min(1.0, middle + half)
    return low, high


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided p-value of so many problems lost and won (McNemar's exact test).

    That of a fair coin for each problem that flipped; 1 where none did. Problems that both pass or
    both fail tell nothing.
    """
    flipped = lost + won
    # Ways in which so few or fewer of the flips are to the rarer side, in whole numbers.
    ways = tail = 1
    for count in range(1, min(lost, won) + 1):
        ways = ways * (flipped - count + 1) // count
        tail += ways
    return min(1.0, float(Fraction(2 * tail, 2**flipped)))
