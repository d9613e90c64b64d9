"""Two runs on the same problems, paired: what is harm, and what is chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trtcoder.bundle.scores import Scores, SuiteScores
from trtcoder.errors import EvaluationError
from trtcoder.evaluation.intervals import mcnemar

# Below it, so many flips to one side are not put down to chance.
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSuite:
    """One suite in both runs.

    Attributes:
        suite, title: of it.
        asked: problems.
        first, second: that each passed.
        lost: problems that only the first passed; ``won`` only the second.
        p_value: of as many flips to one side, if flips were a fair coin's (McNemar, exact).
        refused: problems that one of the two could not be asked.
    """

    suite: str
    title: str
    asked: int
    first: int
    second: int
    lost: tuple[str, ...]
    won: tuple[str, ...]
    p_value: float
    refused: int

    @property
    def verdict(self) -> str:
        """What the flips say, in words."""
        if not self.lost and not self.won:
            return "the same problems pass"
        if self.p_value >= SIGNIFICANT:
            return "no more than chance would do"
        return "worse" if len(self.lost) > len(self.won) else "better"


def compare(first: Scores, second: Scores) -> list[PairedSuite]:
    """Pair the suites that both runs have.

    Raises:
        EvaluationError: they share none, or the problems of a shared one differ.
    """
    pairs = list(_pairs(first, second))
    if not pairs:
        raise EvaluationError(
            "the two runs share no suite; run both with the same --suite, --limit and --form"
        )
    return [_paired(one, other) for one, other in pairs]


def _pairs(first: Scores, second: Scores) -> Iterator[tuple[SuiteScores, SuiteScores]]:
    others = {found.suite: found for found in second.suites}
    for one in first.suites:
        other = others.get(one.suite)
        if other is None:
            continue
        if one.data != other.data:
            raise EvaluationError(
                f"{one.suite}: the two runs were not asked the same ({one.asked} and "
                f"{other.asked} problems, as {one.form} and {other.form}); run both with the same "
                "--limit, --form and data"
            )
        yield one, other


def _paired(one: SuiteScores, other: SuiteScores) -> PairedSuite:
    both = list(zip(one.problems, other.problems, strict=True))
    lost = tuple(a.id for a, b in both if a.passed and not b.passed)
    won = tuple(a.id for a, b in both if b.passed and not a.passed)
    return PairedSuite(
        suite=one.suite,
        title=one.title,
        asked=one.asked,
        first=one.passed,
        second=other.passed,
        lost=lost,
        won=won,
        p_value=mcnemar(len(lost), len(won)),
        refused=max(one.refused, other.refused),
    )
