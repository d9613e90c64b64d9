"""What comes next in a sequence, guessed from what stood there before.

Where the last three tokens stood in the sequence before, what followed them then is the guess
(prompt lookup: Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). A place that is
found is followed for as long as the guesses come true, and one token further after one that did
not: an edit is often a changed word in a copied line.
"""

from __future__ import annotations

import numpy as np

from trtcoder.runtime.speculation.acceptance import Acceptance

_NGRAM = 3
# Bits of a token in the key of three.
_BITS = 21
# A match is measured back to here: longer ones count alike.
_LONG = 32


class PromptLookup:
    """Follows one sequence. `read` takes in what was added since; nothing is read twice.

    Attributes:
        length: tokens at the end that agree with those in front of the guess; 0 behind a wrong
            guess.
    """

    def __init__(self, tokens: list[int], num_prompt: int, rates: Acceptance) -> None:
        """Index a prompt.

        Args:
            tokens: the sequence's own list, which others append to; ids below 2^21.
            num_prompt: tokens of the prompt. Guesses behind it are counted.
            rates: to count them in.
        """
        self.length = 0
        self._rates = rates
        self._tokens = tokens
        self._place = -1  # of the token that is the guess; -1 for none
        begun = np.array(tokens[: num_prompt - 1], np.int64)
        keys = (begun[:-2] << 2 * _BITS) | (begun[1:-1] << _BITS) | begun[2:]
        # What followed the three tokens when they stood there last.
        self._following = dict(zip(keys.tolist(), range(_NGRAM, num_prompt), strict=False))
        self._read = max(num_prompt - 1, 0)

    def read(self) -> None:
        """Take in the tokens that were added."""
        tokens = self._tokens
        for end in range(self._read, len(tokens)):
            token = tokens[end]
            if self._place >= 0:
                came = tokens[self._place] == token
                self._rates.note(self.length, came)
                self.length = self.length + 1 if came else 0
                self._place += 1
            if end < _NGRAM - 1:
                continue
            key = (tokens[end - 2] << 2 * _BITS) | (tokens[end - 1] << _BITS) | token
            found = self._following.get(key)
            self._following[key] = end + 1
            if found is not None and self.length < _NGRAM:
                self._place = found
                self.length = self._agreeing(found, end + 1)
        self._read = len(tokens)

    @property
    def has_guess(self) -> bool:
        """Whether there is one."""
        return self._place >= 0

    def chance(self, place: int) -> float:
        """Return the probability of the guess at ``place`` where those before it come, 0 to 1."""
        return self._rates.chance(self.length + place)

    def guess(self, count: int) -> list[int]:
        """Return the next ``count`` tokens as they are guessed; none where nothing was found."""
        if self._place < 0:
            return []
        found = self._tokens[self._place : self._place + count]
        # What repeats itself goes on to do so.
        period = len(self._tokens) - self._place
        while len(found) < count:
            found.append(found[-period])
        return found

    def _agreeing(self, one: int, other: int) -> int:
        """Return how many tokens in front of two places agree."""
        tokens, count = self._tokens, _NGRAM
        while count < min(one, _LONG) and tokens[one - 1 - count] == tokens[other - 1 - count]:
            count += 1
        return count
