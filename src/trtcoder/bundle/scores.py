"""What an engine scored: `eval.json` as frozen dataclasses, for writing and reading."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtcoder.errors import EngineError
from trtcoder.plain_json import dumps
from trtcoder.refusals import parse_json, read_text
from trtcoder.typed_json import MismatchError, plain, read

FILE_NAME = "eval.json"
FORMAT = 1
_REMEDY = "run `trtcoder eval` again"


@dataclass(frozen=True, slots=True)
class CardFigure:
    """What the model's publishers state: a share of 1, where, and what was done differently."""

    model: str
    share: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Solved:
    """One problem: whether it was solved, and why not.

    ``place`` is a needle's: tokens of the prompt, and its depth.
    """

    id: str
    passed: bool
    reason: str = ""
    place: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteScores:
    """What came of one suite.

    Attributes:
        suite: its name; ``title`` is the model card's.
        measure: what the share is called, such as pass@1.
        form: how its problems were asked: complete, chat or fill.
        data: sha256 of what was asked, so that two runs of one digest can be compared.
        asked, passed: problems.
        low, high: the 95 % interval of the share (Wilson).
        measures: means of further figures, by name.
        refused: problems that the model could not be asked, such as prompts beyond its context;
            they count as not passed.
        card: the published figure of this model, if there is one.
        problems: each of them, in the suite's order.
    """

    suite: str
    title: str
    measure: str
    form: str
    data: str
    asked: int
    passed: int
    low: float
    high: float
    measures: dict[str, float]
    refused: int
    card: CardFigure | None
    problems: tuple[Solved, ...]

    @property
    def share(self) -> float:
        """The share of problems that passed."""
        return self.passed / self.asked if self.asked else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All of `eval.json`.

    Attributes:
        trtcoder: the version that asked and judged.
        model: its name.
        engine: the digest of what computed (`Manifest.computing_digest`); None for a server.
        address: of the server; None for an engine.
        suites: what came of each.
    """

    format: int = FORMAT
    trtcoder: str
    model: str
    engine: str | None
    address: str | None
    suites: tuple[SuiteScores, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `eval.json`."""
        found: dict[str, Any] = plain(self)
        return found

    def to_json(self) -> str:
        """Return the text of `eval.json`."""
        return dumps(self.to_dict(), indent=1, sort_keys=True, ascii_only=True) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = FILE_NAME) -> Scores:
        """Read scores; ``source`` names them in errors.

        Raises:
            EngineError: no scores, or a value that cannot be.
        """
        data = parse_json(text, source, EngineError, _REMEDY)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise EngineError(f"{source}: no scores of format {FORMAT}; {_REMEDY}")
        try:
            scores = read(cls, data, unknown_keys=True)
        except MismatchError as error:
            raise EngineError(f"{source}: {error}; {_REMEDY}") from error
        problems = list(scores._problems())
        if problems:
            raise EngineError(f"{source}: {'; '.join(problems[:5])}; {_REMEDY}")
        return scores

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read a file of scores.

        Raises:
            EngineError: see `from_json`, or the file cannot be read.
        """
        return cls.from_json(read_text(path, EngineError), str(path))

    def _problems(self) -> Iterator[str]:
        for found in self.suites:
            if found.asked != len(found.problems):
                yield f"{found.suite}: states {found.asked} problems and has {len(found.problems)}"
            if found.passed != sum(each.passed for each in found.problems):
                yield f"{found.suite}: states other passes than its problems have"
            if not 0 <= found.low <= found.high <= 1:
                yield f"{found.suite}: its interval is none"
