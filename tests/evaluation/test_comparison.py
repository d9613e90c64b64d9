from __future__ import annotations

import pytest

from tests.evaluation.made_scores import made_scores
from trtcoder.errors import EvaluationError
from trtcoder.evaluation.comparison import compare
from trtcoder.evaluation.score_table import render_pairs


def test_problems_that_flip_to_one_side_are_harm() -> None:
    (pair,) = compare(made_scores("1" * 12), made_scores("1111" + "0" * 8))
    assert (pair.first, pair.second) == (12, 4)
    assert len(pair.lost) == 8
    assert pair.won == ()
    assert pair.p_value == 2 / 2**8
    assert pair.verdict == "worse"


def test_as_many_flips_to_both_sides_are_chance() -> None:
    (pair,) = compare(made_scores("110011"), made_scores("001111"))
    assert pair.lost == ("problem-0", "problem-1")
    assert pair.won == ("problem-2", "problem-3")
    assert pair.verdict == "no more than chance would do"
    text = render_pairs([pair], ("one", "other"))
    assert "only A solves problem-0, problem-1" in text
    assert "only B solves problem-2, problem-3" in text


def test_the_same_passes_are_the_same() -> None:
    (pair,) = compare(made_scores("101"), made_scores("101"))
    assert pair.p_value == 1
    assert pair.verdict == "the same problems pass"


def test_runs_that_were_asked_different_things_are_not_paired() -> None:
    with pytest.raises(EvaluationError, match="were not asked the same"):
        compare(made_scores("101"), made_scores("101", data="another"))
    with pytest.raises(EvaluationError, match="share no suite"):
        compare(made_scores("101"), made_scores("101", suite="another"))
