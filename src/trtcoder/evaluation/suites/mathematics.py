"""GSM8K (Cobbe et al., arXiv 2110.14168) and MATH (Hendrycks et al., arXiv 2103.03874).

Asked without examples, in DeepSeek's words for Instruct models (DeepSeekMath, arXiv 2402.03300):
the answer reasons step by step and ends with a box.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.math_answer import boxed, last_number, same_formula, same_number
from trtcoder.evaluation.problem import Judge, Outcome, Problem
from trtcoder.evaluation.records import read_records
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Setup, Suite

_MAX_TOKENS = 1024
_REQUEST = "{}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def _gsm8k(setup: Setup) -> Iterator[Problem]:
    if setup.file is None:
        return
    for number, record in enumerate(read_records(setup.file)):
        _, mark, gold = record.text("answer").rpartition("####")
        if not mark:
            raise EvaluationError(f"{record.place}: its answer has no ####; give GSM8K's own file")
        yield _problem(str(number), record.text("question"), _number(gold.strip()))


def _math(setup: Setup) -> Iterator[Problem]:
    if setup.file is None:
        return
    for number, record in enumerate(read_records(setup.file)):
        gold = record.text("answer") if "answer" in record else boxed(record.text("solution"))
        if gold is None:
            raise EvaluationError(f"{record.place}: its solution has no box; give MATH's own file")
        name = record.get("unique_id") or f"{record.get('type', 'problem')}/{number}"
        yield _problem(str(name), record.text("problem"), _formula(gold))


def _problem(name: str, question: str, judge: Judge) -> Problem:
    return Problem(
        id=name,
        form="chat",
        prompt=_REQUEST.format(question),
        max_tokens=_MAX_TOKENS,
        judge=judge,
    )


def _number(gold: str) -> Judge:
    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        inside = boxed(answer)
        found = last_number(answer if inside is None else inside)
        return _outcome(same_number(found, gold), found)

    return judge


def _formula(gold: str) -> Judge:
    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        found = boxed(answer)
        return _outcome(same_formula(found, gold), found)

    return judge


def _outcome(right: bool, found: str | None) -> Outcome:
    why = "gave no final answer" if found is None else f"answered {found[:60]}"
    return Outcome(right, "" if right else why)


GSM8K = Suite(
    name="gsm8k",
    title="GSM8K",
    forms=("chat",),
    load=_gsm8k,
    measure="exact match",
    needs_file="its test.jsonl",
)
MATH = Suite(
    name="math",
    title="MATH",
    forms=("chat",),
    load=_math,
    measure="exact match",
    needs_file="its test problems as JSON lines",
)
