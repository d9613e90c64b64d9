"""Suites whose answers are compared: lines, numbers, formulas and needles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.published import GSM8K, MATH, REPOBENCH, judged, problems, write
from trtcoder.errors import EvaluationError
from trtcoder.evaluation.math_answer import boxed, same_formula, same_number


def count(text: str) -> int:
    return len(text.split())


def test_repobench_asks_for_the_next_line_behind_the_other_files(tmp_path: Path) -> None:
    python, java = problems(
        "repobench", write(tmp_path / "repobench.jsonl", REPOBENCH), count_tokens=count
    )
    assert python.prompt == (
        "# Repo Name: small/repository\n# Path: app/sums.py\ndef add(a, b): ...\n\n"
        "# Path: app/main.py\nfrom app.sums import add\n\n\ndef total(a, b):\n"
        "    # Both together.\n"
    )
    assert java.prompt.startswith("// Repo Name: small/repository\n// Path: app/Main.java\n")
    answer = '    """A comment."""\n    # Another.\n    return  add(a, b)\n    more\n'
    outcome = judged(python, answer.replace('"""A comment."""', "# One."))
    assert outcome.passed
    assert judged(python, "    return add(b, a)").passed is False
    assert 0.8 < judged(python, "    return add(b, a)").measures["edit similarity"] < 1
    assert judged(java, "/* a\n b */\n    int size;\n").passed


def test_repobench_cuts_the_other_files_where_the_context_is_short(tmp_path: Path) -> None:
    long = REPOBENCH[0] | {
        "context": [{"path": "a.py", "snippet": "\n".join(f"x_{n} = {n}" for n in range(500))}]
    }
    (problem,) = problems(
        "repobench", write(tmp_path / "long.jsonl", [long]), count_tokens=count, context=400
    )
    assert count(problem.prompt) <= 400 - 128
    assert "x_0 = 0" in problem.prompt
    assert "x_499 = 499" not in problem.prompt
    assert "def total(a, b):" in problem.prompt


def test_gsm8k_takes_the_boxed_number_or_the_last(tmp_path: Path) -> None:
    (problem,) = problems("gsm8k", write(tmp_path / "test.jsonl", GSM8K))
    assert problem.prompt.startswith("Two and two?\nPlease reason step by step")
    for answer, passed in (
        ("So it is \\boxed{1004}, not 7.", True),
        ("First 7, then $1,004.00.", True),
        ("\\boxed{7} and 1004", False),
        ("none", False),
    ):
        assert judged(problem, answer).passed is passed, answer


def test_math_takes_the_box_alone(tmp_path: Path) -> None:
    half, root = problems("math", write(tmp_path / "math.jsonl", MATH))
    assert root.id == "test/algebra/1.json"
    assert judged(half, "It is \\boxed{0.5}").passed
    assert judged(half, "It is \\boxed{\\frac12}").passed
    assert judged(half, "It is 1/2").reason == "gave no final answer"
    assert judged(root, "\\boxed{\\sqrt2}").passed


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\\left( 1, 2 \\right)", "(1,2)", True),
        ("x = 5", "5", True),
        ("10\\%", "10", True),
        ("90^\\circ", "90", True),
        ("1{,}000", "1000", False),
        ("12,345", "12345", True),
        ("\\text{Tuesday}", "Tuesday", True),
        ("5 \\text{ cm}", "5", True),
        ("\\frac{3}{4}", "0.75", True),
        ("-\\frac{1}{2}", "-0.5", True),
        ("2\\pi", "2 \\pi", True),
        ("3", "4", False),
    ],
)
def test_formulas_that_say_the_same_are_the_same(one: str, other: str, same: bool) -> None:
    assert same_formula(one, other) is same


def test_boxes_may_be_nested() -> None:
    assert boxed("a \\boxed{1} b \\boxed{\\frac{1}{2}} c") == "\\frac{1}{2}"
    assert boxed("no box") is None
    assert boxed("cut \\boxed{1") is None
    assert same_number("1,000", "1000.0")
    assert not same_number(None, "1")


def test_a_needle_is_hidden_at_each_depth_and_the_haystack_has_the_asked_length() -> None:
    found = problems(
        "needle", None, "complete", count_tokens=count, needle_lengths=(1000, 4000), needle_depths=3
    )
    assert [each.place for each in found] == [
        (length, depth) for length in (1000, 4000) for depth in (0.0, 0.5, 1.0)
    ]
    for problem in found:
        length, depth = problem.place or (0, 0)
        assert 0.85 * length < count(problem.prompt) <= length
        fact = problem.prompt.index("# The magic number of")
        assert abs(fact / len(problem.prompt) - depth) < 0.1
        beginning = problem.prompt.rsplit("\n", 1)[1]
        number = problem.prompt[fact + len(beginning) :].split(".")[0].strip()
        assert judged(problem, f" {number}. And more").passed
        assert not judged(problem, f" {number}1").passed
        assert not judged(problem, " unknown").passed
    # The haystack is the same at every depth, so that the engine's cache keeps its beginning.
    assert found[4].prompt[:2000] == found[5].prompt[:2000]


def test_needles_ask_in_a_chat_by_a_question() -> None:
    found = problems("needle", None, "chat", count_tokens=count, context=2048)
    assert {each.place[0] for each in found if each.place} == {512, 1024, 2048}
    assert found[0].prompt.endswith("Answer with the number alone.")


def test_needles_beyond_the_context_are_refused() -> None:
    with pytest.raises(EvaluationError, match="more than the context of 2,048"):
        problems("needle", None, "chat", count_tokens=count, context=2048, needle_lengths=(4096,))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no problems"),
        ("{", "line 1: is not JSON"),
        ("[1]", "entry 1: is no object"),
        ('{"question": "x"}', "line 1: has no answer"),
        ('{"question": "x", "answer": 4}', "answer is not text"),
        ('{"question": "x", "answer": "4"}', "no ####"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_place(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=complaint):
        problems("gsm8k", path)


def test_a_suite_that_needs_a_file_says_which() -> None:
    with pytest.raises(EvaluationError, match=r"needs its data, its test.jsonl; name the file"):
        problems("gsm8k", None)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "small.jsonl.gz", GSM8K)
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(EvaluationError, match="is cut short"):
        problems("gsm8k", whole)


def test_parquet_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    path.write_bytes(b"PAR1\x15\x04\xff\xfePAR1")
    with pytest.raises(EvaluationError, match="is Parquet; make JSON lines of it"):
        problems("gsm8k", path)
