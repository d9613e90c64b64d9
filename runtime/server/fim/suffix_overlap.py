"""How much of what is behind a hole the end of a middle repeats."""

from __future__ import annotations

import re

# Of the suffix, so many lines that say something are compared, and so many characters.
_LINES, _LENGTH = 2, 400
# An overlap with words counts from so many characters on, or where it has all of a line.
_LEAST = 8
_OPEN, _CLOSE = "([{", ")]}"


class SuffixOverlap:
    """The longest end of a text that begins ``suffix``, followed character by character.

    Attributes:
        length: characters of it.
        is_complete: the text has gone on with lines of the suffix; what follows is no middle.
    """

    def __init__(self, suffix: str) -> None:
        self._pattern, lines = _beginning(suffix)
        self._ends = [each.start() for each in re.finditer("\n", self._pattern)]
        self._ends.append(len(self._pattern))
        # The next line's first letter would be behind it: the lines are all there.
        self._stops = lines == _LINES and self._pattern.endswith("\n")
        self._fallback = _fallbacks(self._pattern)
        self._depth = 0
        self._tail = ""
        self.length = 0
        self.is_complete = False

    def push(self, text: str) -> int:
        """Go on by ``text``; return how many of its characters were taken before completion."""
        pattern, fallback = self._pattern, self._fallback
        if not pattern:
            return len(text)
        before = self._tail
        self._tail = (before + text)[-_LENGTH - 1 :]
        for count, letter in enumerate(text, start=1):
            self._depth += (letter in _OPEN) - (letter in _CLOSE)
            while self.length and (self.length == len(pattern) or pattern[self.length] != letter):
                self.length = fallback[self.length - 1]
            if pattern[self.length] == letter:
                self.length += 1
            if self._stops and self.length == len(pattern):
                taken = before + text[:count]
                if not _is_inside_word(taken[: -self.length], pattern):
                    self.is_complete = True
                    return count
        return len(text)

    def repeated(self) -> int:
        """Return how many of the text's last characters repeat the suffix for certain.

        White space alone never does, a part of a word neither, and closing brackets only where
        more are closed than were opened. Words do from a whole line on.
        """
        overlap = self._pattern[: self.length]
        if not overlap.strip() or _is_inside_word(
            self._tail[: len(self._tail) - self.length], overlap
        ):
            return 0
        if re.search(r"\w", overlap):
            has_line = any(end <= self.length and overlap[:end].strip() for end in self._ends)
            return self.length if has_line or len(overlap.strip()) >= _LEAST else 0
        closing = sum(letter in _CLOSE for letter in overlap)
        return self.length if not closing or self._depth < 0 else 0


def _is_inside_word(before: str, overlap: str) -> bool:
    return re.fullmatch(r"\w\w", before[-1:] + overlap[0]) is not None


def _beginning(suffix: str) -> tuple[str, int]:
    """Return the suffix through its second line with a word, and how many such lines it has."""
    end = lines = 0
    while lines < _LINES and end < min(len(suffix), _LENGTH):
        start, end = end, suffix.find("\n", end) + 1 or len(suffix)
        lines += re.search(r"\w", suffix[start:end]) is not None
    return suffix[: min(end, _LENGTH)], lines


def _fallbacks(pattern: str) -> list[int]:
    """Return, for each beginning of ``pattern``, its longest end that begins it too (KMP)."""
    found = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = found[length - 1]
        length += pattern[index] == pattern[length]
        found[index] = length
    return found
