"""The official infilling sets (Bavarian et al., arXiv 2207.14255), from the user's file.

Single-line, multi-line and random-span share one format; judged as `infilling` is.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtcoder.evaluation.problem import Problem
from trtcoder.evaluation.records import read_records
from trtcoder.evaluation.suite import Setup, Suite
from trtcoder.evaluation.suites.human_eval import Task
from trtcoder.evaluation.suites.infilling import hole


def _load(setup: Setup) -> Iterator[Problem]:
    if setup.file is None:
        return
    for record in read_records(setup.file):
        task = Task.of(record)
        # What is taken out ends with its line break, in the single-line set; the model's line
        # ends before it.
        is_line = task.id.startswith("SingleLine")
        middle = task.solution.rstrip("\n") if is_line else task.solution
        suffix = task.solution[len(middle) :] + record.text("suffix")
        stop = ("\n",) if is_line else ()
        yield hole(task, task.id, task.prompt, middle, suffix, stop)


SUITE = Suite(
    name="human-eval-infilling",
    title="HumanEval FIM",
    forms=("fill",),
    load=_load,
    runs_code=True,
    needs_file="such as HumanEval-SingleLineInfilling.jsonl.gz",
)
