"""Takes the program out of an answer, and judges it by running it."""

from __future__ import annotations

import re
from collections.abc import Callable

from trtcoder.evaluation.problem import Judge, Outcome
from trtcoder.evaluation.sandbox.sandbox import Ending, Sandbox

_BLOCK = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)
_PYTHON = ("python", "py", "python3", "")


def code_block(answer: str, entry: str = "") -> str:
    """Return an answer's code block: the first that defines ``entry``, else the first in Python.

    An answer without blocks is returned whole; a block that the answer's end cut counts too.
    """
    blocks = [body for language, body in _BLOCK.findall(answer) if language.lower() in _PYTHON]
    defining = [body for body in blocks if entry and re.search(rf"\bdef +{entry}\b", body)]
    return next(iter([*defining, *blocks]), answer)


def running(program: Callable[[str], str]) -> Judge:
    """Return the judge that runs what ``program`` makes of an answer."""

    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        return as_outcome(sandbox.run(program(answer)))

    return judge


def as_outcome(ending: Ending) -> Outcome:
    """Return what a program's end means."""
    why = ending.complaint if ending.status == "failed" else ending.status
    return Outcome(ending.passed, "" if ending.passed else why or "it ended before its tests did")
