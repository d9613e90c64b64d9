"""Equal shares of computed tokens for clients that ask at the same time.

Each client has a counter of the tokens computed for it, and the smallest goes first (virtual
token counter: Sheng et al. 2024, https://arxiv.org/abs/2401.00588). A client that comes back
starts at the smallest counter among those that are there, so that nobody saves up turns.
"""

from __future__ import annotations

from collections import Counter


class FairShare:
    """Counters of the clients that have sequences."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._sequences: Counter[str] = Counter()

    def enter(self, client: str) -> None:
        """Note one more sequence of a client."""
        if not self._sequences[client]:
            self._served[client] = min(self._served.values(), default=0)
        self._sequences[client] += 1

    def leave(self, client: str) -> None:
        """Note one sequence less."""
        self._sequences[client] -= 1
        if not self._sequences[client]:
            del self._sequences[client], self._served[client]

    def charge(self, client: str, tokens: int) -> None:
        """Note tokens computed for a client."""
        self._served[client] += tokens

    def served(self, client: str) -> int:
        """Return a client's counter."""
        return self._served[client]
