"""Token ids to text as they arrive, holding back what is not certain yet.

Held back are the bytes of an unfinished UTF-8 character and the longest tail that may become a
stop string. The text does not depend on how the bytes are cut into tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from trtcoder.prompting.tokenizer import TextTokenizer


class Detokenizer:
    """The text of one answer. `push` tokens until one completes a stop string, then `finish`."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        stops: Sequence[str] = (),
        *,
        strip_leading_space: bool = False,
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        """Start an answer.

        Args:
            tokenizer: gives the bytes of each token.
            stops: the text ends before the stop string that is completed first.
            strip_leading_space: drop one space at the start, which a chat answer has because
                its prompt ends in "Assistant:".
            include_stop: keep the stop string in the text.
            min_tokens: look for stop strings from this token of the answer on.
        """
        self.stopped_by: str | None = None
        self._tokenizer = tokenizer
        self._stops = tuple(dict.fromkeys(stops))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._strip = strip_leading_space
        self._include_stop = include_stop
        self._blind = min_tokens

    def push(self, token: int) -> str:
        """Add a token; return the text that is certain now, often one token behind."""
        return self.push_bytes(self._tokenizer.token_bytes(token))

    def push_bytes(self, data: bytes) -> str:
        """Add the bytes of a token; return as `push`."""
        self._blind -= 1
        return self._add(data, final=False)

    def finish(self) -> str:
        """Return the text held back; a character that was cut short becomes U+FFFD."""
        text = self._add(b"", final=True)
        if self.stopped_by is None:
            text, self._held = text + self._held, ""
        return text

    def _add(self, data: bytes, *, final: bool) -> str:
        if self.stopped_by is not None:
            return ""
        text = self._decoder.decode(data, final)
        if self._strip and text:
            text, self._strip = text.removeprefix(" "), False
        if not self._stops or self._blind > 0:
            return text
        text = self._held + text
        first = self._first_stop(text)
        if first is not None:
            start, self.stopped_by = first
            self._held = ""
            return text[: start + len(self.stopped_by)] if self._include_stop else text[:start]
        certain = self._certain_length(text)
        self._held = text[certain:]
        return text[:certain]

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """Return the start of the stop string that ends first, the longest of equals."""
        found = [(text.find(stop), stop) for stop in self._stops]
        matches = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if not matches:
            return None
        _, start, stop = min(matches)
        return start, stop

    def _certain_length(self, text: str) -> int:
        """Return how much of ``text`` cannot be part of a stop string that is still to come."""
        certain = len(text)
        for stop in self._stops:
            start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while 0 <= start < certain:
                if stop.startswith(text[start:]):
                    certain = start
                    break
                start = text.find(stop[0], start + 1)
        return certain
