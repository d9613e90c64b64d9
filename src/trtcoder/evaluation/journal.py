"""What was answered and judged so far, a line each: a run that is interrupted goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.models.model import Answer
from trtcoder.evaluation.problem import Outcome, Problem, digest
from trtcoder.refusals import reason

_FORMAT = 1


class Journal:
    """A file of JSON lines, written as things happen.

    An answer is kept for the very problem that was asked: with another prompt it is asked anew.
    """

    def __init__(self, path: Path, asked: Mapping[str, str | None], *, resume: bool) -> None:
        """Open the journal of a run.

        Args:
            path: the file.
            asked: who is asked; the journal of somebody else is refused.
            resume: go on with what the file has; otherwise it is begun anew.

        Raises:
            EvaluationError: the file cannot be used, or is of another model.
        """
        self.path = path
        self._answers: dict[tuple[str, str], Answer] = {}
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._file: IO[bytes] | None = None
        self._head = {"journal": _FORMAT, **asked}
        try:
            if resume and path.exists():
                self._read()
            else:
                path.write_bytes(_line(self._head))
        except OSError as error:
            raise EvaluationError(f"{path}: cannot be used ({reason(error)})") from error

    def __enter__(self) -> Self:
        self._file = self.path.open("ab", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def answered(self) -> int:
        """Problems that were answered."""
        return len(self._answers)

    def answer(self, suite: str, problem: Problem) -> Answer | None:
        """Return the answer to a problem, if there is one."""
        return self._answers.get(_key(suite, problem))

    def outcome(self, suite: str, problem: Problem) -> Outcome | None:
        """Return what an answer was worth, if it was judged."""
        return self._outcomes.get(_key(suite, problem))

    def add_answer(self, suite: str, problem: Problem, answer: Answer) -> None:
        """Keep an answer."""
        key = _key(suite, problem)
        self._answers[key] = answer
        self._write({"suite": suite, "id": problem.id, "asked": key[1], "answer": asdict(answer)})

    def add_outcome(self, suite: str, problem: Problem, outcome: Outcome) -> None:
        """Keep what an answer is worth."""
        key = _key(suite, problem)
        self._outcomes[key] = outcome
        found = {**asdict(outcome), "measures": dict(outcome.measures)}
        self._write({"suite": suite, "id": problem.id, "asked": key[1], "outcome": found})

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._file is None:
            raise ValueError("the journal is not open: use it in a with statement")
        self._file.write(_line(entry))

    def _read(self) -> None:
        """Take what is there; the line that a kill has cut is cut off."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            head, *entries = [json.loads(line) for line in whole.splitlines()]
            if head != self._head:
                raise EvaluationError(
                    f"{self.path}: is the journal of another run ({_named(head)}, not "
                    f"{_named(self._head)}); give another --out, or --force to begin anew"
                )
            for entry in entries:
                key = entry["suite"], entry["asked"]
                if "answer" in entry:
                    self._answers[key] = Answer(**entry["answer"])
                else:
                    self._outcomes[key] = Outcome(**entry["outcome"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{self.path}: is no journal of trtcoder eval; give another --out, or --force to "
                "begin anew"
            ) from error
        if len(whole) < len(data):
            self.path.write_bytes(whole)


def _key(suite: str, problem: Problem) -> tuple[str, str]:
    return suite, digest([problem])[:20]


def _named(head: Mapping[str, Any]) -> str:
    who = head.get("engine") or head.get("address") or "?"
    return f"{head.get('model')}, {str(who)[:24]}"


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
