"""Small files in the forms that suites are published in, made for tests."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trtcoder.evaluation.problem import Outcome, Problem
from trtcoder.evaluation.suite import Setup
from trtcoder.evaluation.suites.registry import SUITES

HUMAN_EVAL = [
    {
        "task_id": "Small/0",
        "prompt": 'from math import sqrt\n\n\ndef root(x):\n    """Return its root: 2 of 4."""\n',
        "entry_point": "root",
        "canonical_solution": "    y = sqrt(x)\n\n    return y\n",
        "test": "def check(candidate):\n    assert candidate(4) == 2\n    assert candidate(9) > 2",
    },
    {
        "task_id": "Small/1",
        "prompt": 'def double(x):\n    """Return twice the number seven."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(7) == 14\n",
    },
    {
        "task_id": "Small/2",
        "prompt": 'def last(items):\n    """Return the last of the items."""\n',
        "entry_point": "last",
        "canonical_solution": "    return items[-1]\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 2\n",
    },
]
INFILLING = [
    {
        "task_id": "SingleLineInfilling/Small/1/L0",
        "prompt": 'def double(x):\n    """Return twice."""\n',
        "suffix": "",
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": HUMAN_EVAL[1]["test"],
    },
    {
        "task_id": "RandomSpanInfilling/Small/1/1",
        "prompt": "def double(x):\n    return 2",
        "suffix": " x\n",
        "entry_point": "double",
        "canonical_solution": " *",
        "test": HUMAN_EVAL[1]["test"],
    },
]
MBPP = [
    {
        "task_id": 2,
        "code": "def both(a, b):\n    return set(a) & set(b)",
        "prompt": "Write a function to find what two tuples share.",
        "source_file": "Small.ipynb",
        "test_imports": ["import math"],
        "test_list": ["assert set(both((3, 4),(5, 4))) == set((4,))"],
        "test": "import numpy as np\nassert set(both((3, 4), (5, 4))) == {math.floor(4.5)}\n",
    }
]
REPOBENCH: list[dict[str, Any]] = [
    {
        "repo_name": "small/repository",
        "file_path": "app/main.py",
        "context": [{"identifier": "add", "path": "app/sums.py", "snippet": "def add(a, b): ..."}],
        "import_statement": "from app.sums import add",
        "token_num": 40,
        "cropped_code": "\n\ndef total(a, b):\n    # Both together.\n",
        "all_code": "",
        "next_line": "    return add(a, b)",
        "gold_snippet_index": 0,
        "created_at": "2023-12-01T00:00:00",
        "level": "2k",
    },
    {
        "repo_name": "small/repository",
        "file_path": "app/Main.java",
        "context": [],
        "import_statement": "import java.util.List;",
        "cropped_code": "class Main {\n",
        "next_line": "    int size;",
    },
]
GSM8K = [{"question": "Two and two?", "answer": "Two and two are <<2+2=4>>4.\n#### 1,004"}]
MATH = [
    {
        "problem": "What is a half?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "It is $\\boxed{\\dfrac{1}{2}}$.",
    },
    {"problem": "Root?", "answer": "\\sqrt{2}", "unique_id": "test/algebra/1.json"},
]


def hidden(tests: list[dict[str, str]]) -> str:
    """Pack tests as LiveCodeBench does."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


LIVE_CODE_BENCH: list[dict[str, Any]] = [
    {
        "question_title": "Sum",
        "question_content": "Print the sum of two numbers.",
        "platform": "atcoder",
        "question_id": "small_a",
        "contest_date": "2024-01-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1 2", "output": "3", "testtype": "stdin"}]),
        "private_test_cases": hidden([{"input": "5 6\n", "output": "11\n", "testtype": "stdin"}]),
        "metadata": "{}",
    },
    {
        "question_title": "Add",
        "question_content": "Add two numbers.",
        "platform": "leetcode",
        "question_id": "2777",
        "starter_code": "class Solution:\n    def add(self, a: List[int], b: int) -> int: ",
        "difficulty": "easy",
        "public_test_cases": json.dumps(
            [{"input": "[1]\n2", "output": "[1, 2]", "testtype": "functional"}]
        ),
        "private_test_cases": hidden(
            [{"input": "[]\n7", "output": "[7]", "testtype": "functional"}]
        ),
        "metadata": json.dumps({"func_name": "add"}),
    },
]


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write records as JSON lines, compressed where the name says so."""
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def problems(suite: str, path: Path | None, form: str | None = None, **setup: Any) -> list[Problem]:
    """Return a suite's problems."""
    chosen = SUITES[suite]
    found: Any = form or chosen.forms[0]
    return chosen.problems(Setup(form=found, file=path, **setup))


def judged(problem: Problem, answer: str, box: Any = None) -> Outcome:
    """Return what an answer is worth; without a sandbox where no code is run."""
    return problem.judge(answer, box)
