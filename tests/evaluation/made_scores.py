"""Scores for tests, without asking anybody."""

from __future__ import annotations

from trtcoder.bundle.scores import CardFigure, Scores, Solved, SuiteScores
from trtcoder.evaluation.intervals import wilson


def made_scores(passed: str, *, suite: str = "human-eval", data: str = "same") -> Scores:
    """Return scores of one suite, ``passed`` having 0 or 1 for each problem."""
    return Scores(
        trtcoder="0",
        model="DeepSeek-Coder-V2-Lite-Instruct",
        engine="ab" * 32,
        address=None,
        suites=(made_suite(passed, suite=suite, data=data),),
    )


def made_suite(
    passed: str,
    *,
    suite: str = "human-eval",
    data: str = "same",
    places: tuple[tuple[int, float], ...] = (),
) -> SuiteScores:
    """Return the scores of one suite."""
    good = passed.count("1")
    low, high = wilson(good, len(passed))
    return SuiteScores(
        suite=suite,
        title="HumanEval",
        measure="pass@1",
        form="chat",
        data=data,
        asked=len(passed),
        passed=good,
        low=low,
        high=high,
        measures={"exact match": 0.25},
        refused=1,
        card=CardFigure("DeepSeek-Coder-V2-Lite-Instruct", 0.811, "model card, section 3.1"),
        problems=tuple(
            Solved(
                f"problem-{index}", each == "1", "" if each == "1" else "AssertionError",
                places[index] if places else None,
            )
            for index, each in enumerate(passed)
        ),
    )  # fmt: skip
