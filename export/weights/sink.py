"""Where the weights of a plan go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from trtcoder.export.weights.plan import Part, Rows, Step


class Sink(Protocol):
    """Takes parts of weights in any order and from several threads.

    Where each part goes follows from the declared shapes alone, so the bytes never depend on
    timing, and what an interrupted build wrote stays where it is.
    """

    def write(self, step: Step, part: Part) -> int:
        """Store what ``step`` made of a weight; return its bytes.

        Raises:
            BuildError: the disk is full, or the part does not fit its declaration.
        """

    def digest(self, rows: Rows) -> str:
        """Return the BLAKE3 hash of rows as they are stored; may be called from several threads."""

    def sync(self) -> None:
        """Wait until everything that was written is on the disk."""

    def add_filled(self, rows: Mapping[str, int]) -> None:
        """Take note of rows that are written and will not change, by weight."""

    def finish(self) -> dict[str, str]:
        """Return the sha256 of each file, by name, once every weight is filled."""
