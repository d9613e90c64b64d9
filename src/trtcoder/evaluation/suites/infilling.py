"""Single lines to fill in, made of HumanEval's solutions: 1,033 of them.

Each line of a solution that is not blank is taken out once (Bavarian et al., arXiv 2207.14255,
whose single-line benchmark has the same number); the model sees the rest, and its line is judged by
the function's tests. Whether it is the line that was there is stated beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtcoder.evaluation.code_answer import as_outcome
from trtcoder.evaluation.problem import Outcome, Problem, before_stop
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Setup, Suite
from trtcoder.evaluation.suites.human_eval import PACKAGE, Task, tasks

_MAX_TOKENS = 96
_STOP = ("\n",)


def hole(
    task: Task, number: str, prefix: str, middle: str, suffix: str, stop: tuple[str, ...]
) -> Problem:
    """Return a hole in a task's function as a problem."""

    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        found = before_stop(answer, stop)
        exact = found.strip() == middle.strip()
        # What was there passes: nothing is to be learnt by running it.
        same = found.rstrip() == middle.rstrip()
        outcome = (
            Outcome(True)
            if same
            else as_outcome(sandbox.run(task.program(prefix + found + suffix)))
        )
        return Outcome(outcome.passed, outcome.reason, {"exact match": float(exact)})

    return Problem(
        id=number,
        form="fill",
        prompt=prefix,
        suffix=suffix,
        max_tokens=_MAX_TOKENS if stop else 4 * _MAX_TOKENS,
        stop=stop,
        judge=judge,
    )


def _load(setup: Setup) -> Iterator[Problem]:
    for task in tasks(setup):
        lines = task.solution.splitlines(keepends=True)
        for index, line in enumerate(lines):
            if not line.strip():
                continue
            middle = line.rstrip("\r\n")
            prefix = task.prompt + "".join(lines[:index])
            suffix = line[len(middle) :] + "".join(lines[index + 1 :])
            yield hole(task, f"{task.id}/L{index}", prefix, middle, suffix, _STOP)


SUITE = Suite(
    name="infilling",
    title="HumanEval FIM",
    forms=("fill",),
    load=_load,
    runs_code=True,
    package=PACKAGE,
)
