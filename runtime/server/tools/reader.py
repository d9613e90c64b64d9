"""Reads calls out of an answer's text as it comes."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from trtcoder.runtime.server.tools.spelling import ARGUMENTS, CLOSE, NAME, OPEN, TEXT, TEXT_CLOSE


@dataclass(frozen=True, slots=True)
class Text:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A call, number ``number`` of the answer; ``is_text`` if it takes text, not arguments."""

    number: int
    id: str
    name: str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments, or of its text."""

    number: int
    text: str


Piece = Text | CallBegins | Arguments


class CallReader:
    """Splits one answer into text and calls; what may begin a mark is held back.

    Attributes:
        num_calls: calls so far.
    """

    def __init__(self, *, reads_calls: bool) -> None:
        self._reads = reads_calls
        self._held = ""
        self._place = "text"
        self._close = CLOSE
        self._taken = ""
        self.num_calls = 0

    def push(self, text: str) -> list[Piece]:
        """Take what became certain of the answer."""
        if not self._reads:
            return [Text(text)] if text else []
        self._held += text
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """Return what was held back when the answer ended."""
        held, self._held = self._held, ""
        if self._place == "text":
            # White space between calls and the end is none of the answer.
            return [Text(held)] if held and not (self.num_calls and held.isspace()) else []
        if not held or self._place != "call" or self._is_closing():
            return []
        return [Arguments(self.num_calls - 1, held)]

    def _step(self, pieces: list[Piece]) -> bool:
        if self._place == "text":
            before, mark, after = self._held.partition(OPEN)
            if mark:
                self._add_text(pieces, before.rstrip())
                self._held, self._place = after, "name"
                return True
            certain = self._held[: len(self._held) - _overlap(self._held, OPEN)].rstrip()
            self._add_text(pieces, certain)
            self._held = self._held[len(certain) :]
            return False
        if self._place == "name":
            return self._begin(pieces)
        before, mark, after = self._held.partition(self._close)
        certain = before if mark else before[: len(before) - _overlap(before, self._close)]
        if certain:
            self._taken += certain
            pieces.append(Arguments(self.num_calls - 1, certain))
        self._held = after if mark else self._held[len(certain) :]
        if mark:
            self._place = "text"
        return bool(mark)

    def _begin(self, pieces: list[Piece]) -> bool:
        """Begin a call whose name is whole: what follows the name says what it takes."""
        name, quote, rest = self._held.removeprefix(NAME).partition('"')
        found = [mark for mark in (ARGUMENTS, TEXT) if f"{quote}{rest}".startswith(mark)]
        if not self._held.startswith(NAME) or not found:
            return False
        (mark,) = found
        is_text = mark == TEXT
        self._close = TEXT_CLOSE if is_text else CLOSE
        pieces.append(
            CallBegins(self.num_calls, f"call_{secrets.token_hex(12)}", name, is_text=is_text)
        )
        self.num_calls += 1
        self._held, self._place, self._taken = rest[len(mark) - 1 :], "call", ""
        return True

    def _is_closing(self) -> bool:
        """Whether what is held back at the end began the call's closing mark, and is none of it."""
        if self._close == TEXT_CLOSE:
            return True
        try:
            json.loads(self._taken)
        except ValueError:  # a brace that arguments still need
            return False
        return True

    def _add_text(self, pieces: list[Piece], text: str) -> None:
        if text:
            pieces.append(Text(text))


def _overlap(text: str, mark: str) -> int:
    """Return how many of the last letters of ``text`` may begin ``mark``."""
    for count in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:count]):
            return count
    return 0
