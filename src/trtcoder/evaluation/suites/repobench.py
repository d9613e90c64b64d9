"""RepoBench v1.1 (Liu et al., arXiv 2306.03091): the next line of a file, from its repository.

The file is a dataset tianyang/repobench_python_v1.1 (or java) as JSON lines. A prompt is made as
the benchmark's `construct_prompt` does: other files' snippets, then the file up to the line, with
snippets cut from their end where it would be too long; a line is right where its words are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from trtcoder.evaluation.problem import Judge, Outcome, Problem
from trtcoder.evaluation.records import Record, read_records
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Setup, Suite

_MAX_TOKENS, _MOST_PROMPT = 128, 15_800


@dataclass(frozen=True, slots=True)
class Language:
    """How a language writes comments."""

    comment: str
    opening: tuple[str, ...]
    closing: tuple[str, ...]


_PYTHON = Language("#", ('"""', "'''"), ('"""', "'''"))
_JAVA = Language("//", ("/*",), ("*/",))


def first_line(code: str, language: Language) -> str:
    """Return the first line that is neither blank nor a comment; without one, the first."""
    lines = code.lstrip("\n").split("\n")
    inside = False
    for line in lines:
        text = line.strip()
        if inside:
            inside = not text.endswith(language.closing)
        elif text.startswith(language.opening):
            inside = True
        elif text and not text.startswith(language.comment):
            return line
    return lines[0]


def _load(setup: Setup) -> Iterator[Problem]:
    if setup.file is None:
        return
    for number, record in enumerate(read_records(setup.file)):
        path = record.text("file_path")
        language = _JAVA if path.endswith(".java") else _PYTHON
        yield Problem(
            id=f"{number}/{record.text('repo_name')}/{path}",
            form="complete",
            prompt=_prompt(record, path, language, setup),
            max_tokens=_MAX_TOKENS,
            judge=_same_line(record.text("next_line"), language),
        )


def _prompt(record: Record, path: str, language: Language, setup: Setup) -> str:
    mark = language.comment
    others = f"{mark} Repo Name: {record.text('repo_name')}\n" + "".join(
        f"{mark} Path: {snippet.get('path')}\n{snippet.get('snippet')}\n\n"
        for snippet in record.list("context")
        if isinstance(snippet, dict)
    )
    code = record.text("cropped_code").rstrip()
    own = f"{mark} Path: {path}\n{record.text('import_statement')}\n{code}\n"
    most = min(_MOST_PROMPT, setup.context - _MAX_TOKENS - 8)
    beyond = setup.count_tokens(others) + setup.count_tokens(own) - most
    if beyond > 0:
        lines = others.split("\n")
        while lines and beyond >= 0:
            beyond -= setup.count_tokens(lines.pop())
        others = "\n".join(lines) + "\n\n"
    return re.sub(r"\n{4,}", "\n\n", others + own)


def _same_line(expected: str, language: Language) -> Judge:
    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        found = first_line(answer, language)
        similar = difflib.SequenceMatcher(None, found, expected, autojunk=False).ratio()
        exact = found.split() == expected.split()
        why = "" if exact else f"wrote {found.strip()[:60]!r}"
        return Outcome(exact, why, {"edit similarity": round(similar, 4)})

    return judge


SUITE = Suite(
    name="repobench",
    title="RepoBench",
    forms=("complete",),
    load=_load,
    measure="exact match",
    needs_file="a dataset tianyang/repobench_python_v1.1 as JSON lines",
)
