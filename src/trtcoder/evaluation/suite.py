"""A suite: problems of one kind, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.problem import Form, Problem
from trtcoder.evaluation.records import read_records
from trtcoder.refusals import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a suite may ask before it makes its problems.

    Attributes:
        form: how a problem is asked that can be asked as text or as a message.
        file: the data that the user named.
        count_tokens: of a text, by the model's tokenizer.
        context: most tokens of a prompt and its answer.
        needle_lengths: tokens of a haystack's prompt.
        needle_depths: how many depths a needle is hidden at.
    """

    form: Form
    file: Path | None = None
    count_tokens: Callable[[str], int] = len
    context: int = 1 << 17
    needle_lengths: tuple[int, ...] = ()
    needle_depths: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Problems of one kind.

    Attributes:
        name: by which it is chosen.
        title: as the model card has it.
        measure: what the share of problems that pass is called.
        forms: in which it can be asked, the preferred one first.
        runs_code: whether judging runs what the model wrote.
        needs_file: what the user's file holds; empty where none is needed.
        package: that brings the data where no file is named; empty where none does.
        load: makes the problems.
    """

    name: str
    title: str
    forms: tuple[Form, ...]
    load: Callable[[Setup], Iterable[Problem]]
    measure: str = "pass@1"
    runs_code: bool = False
    needs_file: str = ""
    package: str = ""

    def check_file(self, file: Path | None) -> None:
        """Look whether its data can be read, before anything heavy.

        Raises:
            EvaluationError: it cannot, or none was named.
            DependencyError: the package that brings it is not installed.
        """
        if self.package and file is None:
            require(self.package, extra="eval")
        if self.needs_file and file is None:
            raise EvaluationError(
                f"{self.name}: needs its data, {self.needs_file}; name the file with "
                f"--file {self.name}=PATH"
            )
        if file is not None:
            next(read_records(file), None)

    def problems(self, setup: Setup) -> list[Problem]:
        """Return its problems.

        Raises:
            EvaluationError: its data is missing or malformed.
        """
        self.check_file(setup.file)
        found = list(self.load(setup))
        if not found:
            raise EvaluationError(f"{setup.file or self.name}: holds no problems; give another one")
        names = [each.id for each in found]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise EvaluationError(f"{setup.file or self.name}: {twice} is in it twice; remove one")
        return found
