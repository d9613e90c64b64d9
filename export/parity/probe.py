"""How an engine's inner values are watched, whatever its target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trtcoder.export.reference.trace import LayerTrace

# One sequence on its way through the engine, as its probe keeps it.
State = TypeVar("State")


class Probe(Protocol[State]):
    """Runs sequences through an engine layer by layer, all of them side by side.

    So that the reference can advance with it, and neither has to keep more than one layer.
    """

    @property
    def block(self) -> int:
        """Positions of a sequence may have gaps only between blocks of so many."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what runs the engine."""

    def start(
        self,
        tokens: Sequence[int],
        positions: NDArray[np.int64] | None = None,
        chunk: int | None = None,
    ) -> State:
        """Return a sequence before the first layer.

        Args:
            tokens: T ids.
            positions: int64 ``[T]``, ascending; from 0 when None.
            chunk: tokens that the engine takes at a time, all when None.
        """

    def embed(self, states: Sequence[State]) -> None:
        """Run what comes before the first layer."""

    def run_layer(self, layer: int, states: Sequence[State]) -> list[LayerTrace]:
        """Run all sequences through one decoder layer, and return what it made of each.

        The layers are run in their order, behind `embed`.
        """

    def logits(self, states: Sequence[State]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each sequence, float32 ``[T, V]``, behind the last layer."""
