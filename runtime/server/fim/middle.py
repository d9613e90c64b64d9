"""The text of a middle on its way to the client."""

from __future__ import annotations

from trtcoder.prompting.line_ends import LineEnds
from trtcoder.runtime.server.fim.suffix_overlap import SuffixOverlap


class Middle:
    """One answer's text: where it ends, what of it repeats the suffix, and its line ends.

    Attributes:
        is_done: nothing more is wanted of this answer.
    """

    def __init__(self, suffix: str, ends: LineEnds, *, trims: bool) -> None:
        """Take the suffix as the model sees it, and the line ends of the client's text."""
        self.is_done = False
        self._ends = LineEnds(ends.windows)
        self._overlap = SuffixOverlap(suffix) if trims else None
        self._held = ""

    def push(self, text: str) -> str:
        """Take a piece; return what is certain."""
        if self.is_done:
            return ""
        if self._overlap is not None:
            taken = self._overlap.push(text)
            self.is_done = self._overlap.is_complete
            text = self._held + text[:taken]
            certain = len(text) - self._overlap.length
            text, self._held = text[:certain], text[certain:]
        return self._ends.restored(text)

    def finish(self) -> str:
        """Return what was held back and does not repeat the suffix."""
        if self._overlap is None:
            return ""
        text, self._held = self._held, ""
        repeated = len(text) if self.is_done else self._overlap.repeated()
        return self._ends.restored(text[: len(text) - repeated])
