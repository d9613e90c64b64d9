"""LiveCodeBench: programs that read and print, and methods that are called."""

from __future__ import annotations

import base64
import pickle
import zlib
from pathlib import Path

import pytest

from tests.evaluation.cells import cell
from tests.evaluation.published import LIVE_CODE_BENCH, judged, problems, write
from trtcoder.errors import EvaluationError
from trtcoder.evaluation.suites.live_code_bench import hidden_tests, same_lines


def test_a_program_is_judged_by_what_it_prints_for_every_test(tmp_path: Path) -> None:
    program, _ = problems("live-code-bench", write(tmp_path / "test.jsonl", LIVE_CODE_BENCH))
    assert program.system is not None
    assert "Print the sum" in program.prompt
    box = cell()
    right = "```python\nimport sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit()\n```"
    assert judged(program, right, box).passed
    outcome = judged(program, "```python\nprint(3)\n```", box)
    assert outcome.reason == "test 2 of 2: another output"
    assert not judged(program, "```python\nimport os\nprint(3)\nos._exit(0)\n```", box).passed


def test_a_method_is_judged_by_what_it_returns(tmp_path: Path) -> None:
    _, method = problems("live-code-bench", write(tmp_path / "test.jsonl", LIVE_CODE_BENCH))
    assert "You will use the following starter code" in method.prompt
    head = "class Solution:\n    def add(self, a: List[int], b: int) -> int:\n        return "
    box = cell()
    assert judged(method, f"```python\n{head}(*a, b)\n```", box).passed
    outcome = judged(method, f"```python\n{head}a\n```", box)
    assert outcome.reason == "AssertionError: test 1 of 2: another result"


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3\n\n", "1 2\n3", True),
        (" 1.0\n", "1", True),
        ("1.0 x", "1 x", False),
        ("1\n2", "1 2", False),
        ("yes", "Yes", False),
    ],
)
def test_outputs_are_compared_by_lines_and_as_numbers(
    printed: str, expected: str, same: bool
) -> None:
    assert same_lines(printed, expected) is same


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch /tmp/evil",)


def test_a_pickle_that_wants_more_than_text_is_refused(tmp_path: Path) -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(ValueError, match=r"asks for posix\.system"):
        hidden_tests(packed)
    record = LIVE_CODE_BENCH[0] | {"private_test_cases": packed}
    with pytest.raises(EvaluationError, match=r"line 1: private_test_cases cannot be read"):
        problems("live-code-bench", write(tmp_path / "evil.jsonl", [record]))
