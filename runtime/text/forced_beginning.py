"""The bytes that an answer must begin with, and which tokens can go on with them."""

from __future__ import annotations

from collections.abc import Callable

from trtcoder.runtime.text.vocabulary import Ids, Vocabulary


class ForcedBeginning:
    """How much of an answer's given beginning is still to come.

    Attributes:
        rest: bytes that the next tokens must give; empty when the answer is free.
    """

    def __init__(self, beginning: bytes, vocabulary: Callable[[], Vocabulary]) -> None:
        """Take the bytes; ``vocabulary`` is asked only where there are any."""
        self.rest = beginning
        self._vocabulary = vocabulary

    def allowed(self) -> Ids | None:
        """Return the tokens that may come next; None for all."""
        return self._vocabulary().compatible(self.rest) if self.rest else None

    def take(self, data: bytes) -> bytes:
        """Take the bytes of the token that came; return those behind the beginning."""
        behind = data[len(self.rest) :]
        self.rest = self.rest[len(data) :]
        return behind
