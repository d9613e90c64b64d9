from __future__ import annotations

from pathlib import Path

import pytest

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.journal import Journal
from trtcoder.evaluation.models.model import Answer
from trtcoder.evaluation.problem import Outcome, Problem
from trtcoder.evaluation.sandbox.sandbox import Sandbox

ASKED = {"model": "Toy", "engine": "ab" * 32, "address": None}


def judge(answer: str, sandbox: Sandbox) -> Outcome:
    return Outcome(answer == "yes")


def problem(name: str, prompt: str = "?") -> Problem:
    return Problem(id=name, form="complete", prompt=prompt, max_tokens=4, judge=judge)


def filled(path: Path) -> Path:
    with Journal(path, ASKED, resume=False) as journal:
        journal.add_answer("suite", problem("a"), Answer("yes", "stop", 1))
        journal.add_outcome("suite", problem("a"), Outcome(True, "", {"exact": 1.0}))
        journal.add_answer("suite", problem("b"), Answer("", refused="too long"))
    return path


def test_what_was_answered_and_judged_is_there_again(tmp_path: Path) -> None:
    journal = Journal(filled(tmp_path / "j"), ASKED, resume=True)
    assert journal.answered == 2
    assert journal.answer("suite", problem("a")) == Answer("yes", "stop", 1)
    assert journal.outcome("suite", problem("a")) == Outcome(True, "", {"exact": 1.0})
    assert journal.answer("suite", problem("b")) == Answer("", refused="too long")
    assert journal.outcome("suite", problem("b")) is None


def test_an_answer_to_another_prompt_or_suite_does_not_count(tmp_path: Path) -> None:
    journal = Journal(filled(tmp_path / "j"), ASKED, resume=True)
    assert journal.answer("suite", problem("a", "another")) is None
    assert journal.answer("other", problem("a")) is None


def test_a_journal_that_was_cut_at_any_byte_is_read(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    data = path.read_bytes()
    head = data.index(b"\n") + 1
    for end in range(head, len(data)):
        path.write_bytes(data[:end])
        journal = Journal(path, ASKED, resume=True)
        assert journal.answered == max(
            0, data[:end].count(b'"answer"', 0, data.rfind(b"\n", 0, end))
        )
        assert path.read_bytes() == data[: data.rfind(b"\n", 0, end) + 1]


def test_without_resuming_a_journal_is_begun_anew(tmp_path: Path) -> None:
    journal = Journal(filled(tmp_path / "j"), ASKED, resume=False)
    assert journal.answered == 0
    assert Journal(tmp_path / "j", ASKED, resume=True).answered == 0


def test_the_journal_of_another_engine_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    with pytest.raises(EvaluationError, match="is the journal of another run"):
        Journal(path, ASKED | {"engine": "cd" * 32}, resume=True)


@pytest.mark.parametrize("text", ["", "x\n", "[]\n", '{"journal": 1}\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "j"
    path.write_text(text)
    with pytest.raises(EvaluationError, match="journal"):
        Journal(path, ASKED, resume=True)
