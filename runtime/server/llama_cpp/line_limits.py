"""llama.vim's limits of an answer: a least indentation, and a time that ends at a line's end."""

from __future__ import annotations

import time


class LineLimits:
    """Follows a text and says when it is over.

    Attributes:
        is_over: a line behind the first begins with less than the indentation, or the time is up.
    """

    def __init__(self, indent: int, seconds: float) -> None:
        """Take the least indentation and the most seconds; 0 is no limit."""
        self.is_over = False
        self._indent = indent
        self._seconds = seconds
        self._started: float | None = None
        self._has_line = False
        self._line_start: str | None = None

    def push(self, text: str) -> str:
        """Take a piece; return what is certain of it, without what goes beyond a limit."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
        certain = self._within(text) if self._indent > 0 else text
        self._has_line = self._has_line or "\n" in text
        if self._seconds > 0 and self._has_line and now - self._started > self._seconds:
            self.is_over = True
        return certain

    def finish(self) -> str:
        """Return white space that was held back."""
        held, self._line_start = self._line_start or "", None
        return held

    def _within(self, text: str) -> str:
        """Hold the white space that begins a line until it is known to be enough."""
        certain = ""
        for letter in text:
            if self._line_start is not None:
                if letter in " \t":
                    self._line_start += letter
                    continue
                if len(self._line_start) < self._indent:
                    self.is_over = True
                    return certain + self._line_start
                certain += self._line_start
                self._line_start = None
            certain += letter
            if letter == "\n":
                self._line_start = ""
        return certain
