"""Where an answer stands in its grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Matcher:
    """Says which tokens may follow, and is told which one did."""

    def __init__(self, matcher: LLMatcher, source: str, vocab_size: int) -> None:
        self._matcher = matcher
        self._source = source
        self._vocab_size = vocab_size

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._matcher.is_stopped()

    def allows(self, token: int) -> bool:
        """Return whether ``token`` may follow; much cheaper than `mask`."""
        return self._matcher.validate_tokens([token]) == 1

    def fitting(self, tokens: list[int]) -> int:
        """Return how many of ``tokens`` may follow one after another, from the first on."""
        return self._matcher.validate_tokens(tokens)

    def mask(self) -> NDArray[np.bool_]:
        """Return which tokens may follow, [vocab].

        Raises:
            RequestError: the grammar is too large to go on with.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._vocab_size].view(np.bool_)

    def advance(self, token: int) -> None:
        """Note that ``token`` followed.

        Raises:
            RequestError: the grammar is too large to go on with.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            message = self._matcher.get_error().strip()[:200]
            raise RequestError(f"{self._source}: the answer cannot be held to it: {message}")
