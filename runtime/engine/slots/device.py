"""What runs plans and holds their cache, as the runner of slots asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of the plans of layers (see `trtcoder.export.graph.slots.inputs`).

    Attributes:
        hidden: float32 ``[tokens, H]``.
        places: int64 ``[slots, length]``.
        window: int64 ``[window]``, ascending from 0.
        cos, sin: float32 ``[1, tokens, rope / 2]``.
    """

    hidden: Floats
    places: NDArray[np.int64]
    window: NDArray[np.int64]
    cos: Floats
    sin: Floats


class PlanDevice(Protocol):
    """Plans, loaded, and a cache of float16 ``[slots, 1, rows, width]`` for each layer."""

    def run_layers(self, inputs: StepInputs, slots: tuple[int, int]) -> Floats:
        """Run all layers over some slots and write their caches; return ``[tokens, H]``.

        Raises:
            EngineError: a plan fails.
        """

    def run_head(self, hidden: Floats) -> Floats:
        """Return the logits ``[samples, V]`` of at most as many rows as there are slots.

        Raises:
            EngineError: the plan fails.
        """

    def copy(self, source: int, target: int, rows: int) -> None:
        """Copy the first rows of a slot to another one, in every layer."""

    def read(self, slot: int) -> bytes:
        """Return the rows of a slot, of one layer after another."""

    def write(self, slot: int, data: bytes) -> bool:
        """Set the rows of a slot to what `read` returned; False where sizes differ."""

    def clear(self, slot: int, row: int) -> None:
        """Set a row of a slot to zero, in every layer."""
