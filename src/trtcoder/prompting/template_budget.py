"""What a chat template may cost: steps, characters, and the numbers that it calls functions with.

It is a program from a downloaded file, and must not fill the memory or run for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

# A message takes one step, and one more for each call that is made for it.
MAX_STEPS = 200_000
# Twenty times what 163,840 tokens spell.
MAX_CHARACTERS = 1 << 24
MAX_NUMBER = 1 << 24


@dataclass(slots=True)
class Budget:
    """What is left to the template that renders; ``now`` is the time that it is told."""

    now: datetime
    steps: int = MAX_STEPS
    characters: int = MAX_CHARACTERS

    def step(self) -> None:
        """Take a step: a turn of a loop, or a call.

        Raises:
            jinja2.TemplateError: there are none left.
        """
        self.steps -= 1
        if self.steps < 0:
            raise TemplateError(f"it takes more than {MAX_STEPS:,} steps")

    def write(self, text: str) -> None:
        """Count what is written, also into a variable.

        Raises:
            jinja2.TemplateError: it is too much.
        """
        self.characters -= len(text)
        if self.characters < 0:
            raise TemplateError(f"it writes more than {MAX_CHARACTERS:,} characters")


_current: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def limited(now: datetime) -> Iterator[None]:
    """Give what renders inside a budget of its own."""
    token = _current.set(Budget(now))
    try:
        yield
    finally:
        _current.reset(token)


def budget() -> Budget:
    """Return the budget of the template that renders in this thread."""
    return _current.get()


def check_size(size: int) -> None:
    """Raise TemplateError for text or a list that is too long to be made."""
    if size > MAX_CHARACTERS:
        raise TemplateError(f"it makes more than {MAX_CHARACTERS:,} characters")


def check_numbers(values: Iterable[Any], limit: int = MAX_NUMBER) -> None:
    """Raise TemplateError for numbers that, as widths and counts, only fill the memory."""
    if any(isinstance(value, int | float) and abs(value) > limit for value in values):
        raise TemplateError(f"it calls a function with a number above {limit:,}")


def check_format(text: str) -> None:
    """Raise TemplateError for a format that may make text of any length."""
    if re.search(r"[0-9]{6}|\*", text):
        raise TemplateError("it formats with a width of six digits or of a variable")
