"""MBPP+ (Liu et al., arXiv 2305.01210): 378 small functions, judged by many tests.

The file is the dataset evalplus/mbppplus as JSON lines; the prompts are EvalPlus'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.code_answer import code_block, running
from trtcoder.evaluation.problem import Problem, before_stop
from trtcoder.evaluation.records import Record, read_records
from trtcoder.evaluation.suite import Setup, Suite

_MAX_TOKENS = 768
_STOP = ('\n"""', "\nassert", "\nif __name__", "\ndef main(", "\nprint(")
_REQUEST = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:\n```\n{}\n```"
)


def _load(setup: Setup) -> Iterator[Problem]:
    if setup.file is not None:
        for record in read_records(setup.file):
            yield _problem(record, chat=setup.form == "chat")


def _problem(record: Record, *, chat: bool) -> Problem:
    if "plus_input" in record:
        raise EvaluationError(
            f"{record.place}: has a problem's inputs and no tests, as EvalPlus' own file does; "
            "give the dataset evalplus/mbppplus, whose tests are programs"
        )
    asserts, test = record.list("test_list"), record.text("test")
    first = str(asserts[0]) if asserts else ""
    prompt = f'"""\n{record.text("prompt")}\n{first}\n"""\n'
    name = re.search(r"assert\W*(?:set|sorted|list|tuple)?\(*(\w+)\(", first)
    entry = name[1] if name else ""
    # Some tests need what only their imports bring.
    imports = "\n".join(map(str, record.get("test_imports") or ()))

    def program(answer: str) -> str:
        code = code_block(answer, entry) if chat else before_stop(answer, _STOP)
        return f"{imports}\n{code}\n{test}\n"

    return Problem(
        id=f"Mbpp/{record.name('task_id').removeprefix('Mbpp/')}",
        form="chat" if chat else "complete",
        prompt=_REQUEST.format(prompt.strip()) if chat else prompt,
        max_tokens=_MAX_TOKENS,
        stop=() if chat else _STOP,
        judge=running(program),
    )


SUITE = Suite(
    name="mbpp-plus",
    title="MBPP+",
    forms=("chat", "complete"),
    load=_load,
    runs_code=True,
    needs_file="the dataset evalplus/mbppplus as JSON lines",
)
