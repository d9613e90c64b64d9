"""LiveCodeBench (Jain et al., arXiv 2403.07974): contest problems, judged by hidden tests.

The file is a part of the dataset livecodebench/code_generation_lite, such as test.jsonl. A program
reads its input and prints; where starter code is given, its method is called. The prompts are the
benchmark's generic ones.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.code_answer import as_outcome, code_block
from trtcoder.evaluation.problem import Judge, Outcome, Problem
from trtcoder.evaluation.records import Record, read_records
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Setup, Suite

_MAX_TOKENS = 2000
_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests. "
    "You will NOT return anything except for the program."
)
_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows."
)
# What contest sites import for a solution.
_PREAMBLE = (
    "from typing import *\nfrom collections import *\nfrom functools import *\n"
    "from itertools import *\nfrom heapq import *\nfrom bisect import *\nfrom math import *\n"
    "import collections, functools, itertools, heapq, bisect, math, re, string, sys\n"
)


@dataclass(frozen=True, slots=True)
class Test:
    """One test: what a program reads or a method is given, and what is expected."""

    input: str
    output: str


class _TextOnly(pickle.Unpickler):
    """Reads a pickled text: that needs nothing from anywhere, so nothing is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def hidden_tests(text: str) -> Any:
    """Return what the field private_test_cases holds: JSON, or JSON pickled, packed and in base64.

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        packed = zlib.decompress(base64.b64decode(text, validate=True))
        return json.loads(_TextOnly(io.BytesIO(packed)).load())
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise ValueError(str(error)) from error


def _load(setup: Setup) -> Iterator[Problem]:
    if setup.file is not None:
        yield from map(_problem, read_records(setup.file))


def _problem(record: Record) -> Problem:
    starter = record.text("starter_code")
    tests = list(_tests(record))
    try:
        method = json.loads(record.text("metadata") or "{}").get("func_name")
    except (ValueError, AttributeError) as error:
        raise EvaluationError(f"{record.place}: metadata is no JSON object") from error
    form = f"{_WITH_STARTER if starter else _WITHOUT_STARTER}\n```python\n"
    return Problem(
        id=record.text("question_id"),
        form="chat",
        system=_SYSTEM,
        prompt=(
            f"### Question:\n{record.text('question_content')}\n\n### Format: {form}"
            f"{starter or '# YOUR CODE HERE'}\n```\n\n"
            "### Answer: (use the provided format with backticks)\n\n"
        ),
        max_tokens=_MAX_TOKENS,
        judge=_printing(tests) if method is None else _calling(method, tests),
    )


def _tests(record: Record) -> Iterator[Test]:
    for key in ("public_test_cases", "private_test_cases"):
        try:
            for each in hidden_tests(record.text(key)):
                yield Test(str(each["input"]), str(each["output"]))
        except (ValueError, TypeError, KeyError) as error:
            raise EvaluationError(
                f"{record.place}: {key} cannot be read ({error}); fetch the file again"
            ) from error


def _printing(tests: list[Test]) -> Judge:
    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        program = code_block(answer)
        for number, test in enumerate(tests, 1):
            ending = sandbox.run(program, test.input, may_exit=True)
            if not ending.passed:
                outcome = as_outcome(ending)
                return Outcome(False, f"test {number} of {len(tests)}: {outcome.reason}")
            if not same_lines(ending.printed, test.output):
                return Outcome(False, f"test {number} of {len(tests)}: another output")
        return Outcome(True)

    return judge


def _calling(method: str, tests: list[Test]) -> Judge:
    given = [[json.loads(line) for line in test.input.split("\n") if line] for test in tests]
    expected = [json.loads(test.output) for test in tests]
    check = (
        f"\nimport json as _json\n_given = _json.loads({json.dumps(json.dumps(given))})\n"
        f"_expected = _json.loads({json.dumps(json.dumps(expected))})\n"
        "for _number, (_one, _other) in enumerate(zip(_given, _expected), 1):\n"
        f"    _found = getattr(Solution(), {method!r})(*_one)\n"
        "    _found = list(_found) if isinstance(_found, tuple) else _found\n"
        "    assert _found == _other, f'test {_number} of {len(_given)}: another result'\n"
    )

    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        return as_outcome(sandbox.run(_PREAMBLE + code_block(answer, method) + check))

    return judge


def same_lines(printed: str, expected: str) -> bool:
    """Tell whether two outputs are the same: line by line, without spaces around, or as numbers."""
    one = [line.strip() for line in printed.strip().split("\n")]
    other = [line.strip() for line in expected.strip().split("\n")]
    return len(one) == len(other) and all(map(_same_line, one, other))


def _same_line(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    try:
        return [Decimal(each) for each in printed.split()] == [
            Decimal(each) for each in expected.split()
        ]
    except InvalidOperation:
        return False


SUITE = Suite(
    name="live-code-bench",
    title="LiveCodeBench",
    forms=("chat",),
    load=_load,
    runs_code=True,
    needs_file="a part of livecodebench/code_generation_lite, such as test.jsonl",
)
