"""Text in which control tokens are marks, so that no other text can turn into one.

A mark is the number of a token between two noncharacters of Unicode that occur nowhere else in the
text. Only trusted text (a chat template) gets marks; what a user writes stands between them as it
is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from trtcoder.errors import RequestError

# Code points that are for a program's own use and are not text (Unicode 16.0, section 23.7).
NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks for ``tokens``, the spellings of control tokens; ``letter`` encloses their numbers."""

    letter: str
    tokens: tuple[str, ...]

    @classmethod
    def absent_from(cls, texts: Iterable[str], tokens: Iterable[str]) -> Marks:
        """Return marks whose letter is in none of ``texts``.

        Raises:
            RequestError: the texts have every noncharacter.
        """
        used = set().union(*(set(text) & set(NONCHARACTERS) for text in texts))
        letter = next((letter for letter in NONCHARACTERS if letter not in used), None)
        if letter is None:
            raise RequestError("the messages hold noncharacters (U+FDD0 to U+FDEF); remove them")
        return cls(letter, tuple(tokens))

    def put(self, text: str) -> str:
        """Return trusted text with a mark for each control token that it spells."""
        pattern, numbers = _known(self.tokens)
        return pattern.sub(lambda match: f"{self.letter}{numbers[match[0]]}{self.letter}", text)

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the pieces of a marked text, and whether each spells a control token."""
        for index, piece in enumerate(re.split(f"{self.letter}([0-9]+){self.letter}", text)):
            if index % 2:
                yield self.tokens[int(piece)], True
            elif piece:
                yield piece, False

    def spelled(self, text: str) -> str:
        """Return a marked text with its control tokens spelled out."""
        return "".join(piece for piece, _ in self.split(text))


@lru_cache(maxsize=8)
def _known(tokens: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, int]]:
    longest_first = sorted(tokens, key=len, reverse=True)
    # (?!) matches nothing.
    pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    return pattern, {token: number for number, token in enumerate(tokens)}
