"""What a run needs of whoever it asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from trtcoder.evaluation.problem import Form, Problem


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        text: of the answer.
        ended: why it did: ``stop``, ``length``, ``context``.
        tokens: of the answer, where they are known.
        refused: why the problem was not answered at all, such as a prompt beyond the context.
    """

    text: str
    ended: str = ""
    tokens: int = 0
    refused: str = ""


class Model(Protocol):
    """Answers problems, always with the most likely token, in the order that they are given.

    Attributes:
        name: of the model, by which the card's figures are found.
        digest: of what computes: the same digest, the same answers; None where it is not known.
        context: most tokens of a prompt and its answer; None where it is not known.
    """

    name: str
    digest: str | None
    context: int | None

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def can(self, form: Form) -> bool:
        """Return whether problems can be asked in this form."""

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has."""

    def answers(self, problems: Sequence[Problem]) -> Iterator[Answer]:
        """Yield an answer to each problem; many are asked at a time."""
