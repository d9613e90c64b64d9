"""How many prompt tokens a step takes, so that running answers do not wait long."""

from __future__ import annotations

# The share of a new measurement in the running mean.
_WEIGHT = 0.2
_LEAST = 16
# Steps of fewer tokens say little about the time of a token.
_MANY = 8


class Pace:
    """Measures what a prompt token costs, and chooses the chunk for a wanted gap."""

    def __init__(self, chunk: int, gap_seconds: float) -> None:
        """Start; ``chunk`` is the most tokens of a step, ``gap_seconds`` the wanted gap."""
        self._chunk = chunk
        self._gap = gap_seconds
        self._per_token: float | None = None

    def budget(self, is_decoding: bool) -> int:
        """Return the tokens of the next step; all of them where no answer is running."""
        if not is_decoding or self._per_token is None:
            return self._chunk
        fitting = int(self._gap / self._per_token) // _LEAST * _LEAST
        return max(_LEAST, min(self._chunk, fitting))

    def note(self, tokens: int, seconds: float) -> None:
        """Note what a step took."""
        if tokens < _MANY:
            return
        found = seconds / tokens
        if self._per_token is None:
            self._per_token = found
        else:
            self._per_token += _WEIGHT * (found - self._per_token)

    def seconds_for(self, tokens: int) -> float | None:
        """Return about how long so many prompt tokens take; None before any was measured."""
        return None if self._per_token is None else tokens * self._per_token
