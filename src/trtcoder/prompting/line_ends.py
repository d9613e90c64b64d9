"""Windows' line ends: the model sees \\n, as in what it was trained on, and the file \\r\\n."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(slots=True)
class LineEnds:
    """How the lines of a text end, and how those of an answer are to end.

    A text that mixes line ends, or has old Macintosh's \\r, is left as it is: nobody could say
    which an answer should have.
    """

    windows: bool
    _last_return: str = ""

    @classmethod
    def of(cls, *texts: str) -> LineEnds:
        """Return the line ends that the parts of one text share."""
        pairs = sum(text.count("\r\n") for text in texts)
        alone = sum(text.count("\r") + text.count("\n") for text in texts) - 2 * pairs
        return cls(windows=pairs > 0 and alone == 0)

    def for_model(self, text: str) -> str:
        """Return a part of the text with the line ends that the model is used to."""
        return text.replace("\r\n", "\n") if self.windows else text

    def restored(self, piece: str) -> str:
        """Return the next piece of an answer with the line ends of the text."""
        if not self.windows or not piece:
            return piece
        # A model may write \r\n by itself, in one piece or in two.
        before = self._last_return
        self._last_return = "\r" if piece.endswith("\r") else ""
        return re.sub("(?<!\r)\n", "\r\n", before + piece).removeprefix(before)
