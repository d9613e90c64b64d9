"""What a model computed, for comparing: one layer, or a whole sequence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """What one decoder layer computed for one sequence of T tokens.

    Attributes:
        hidden: ``[T, H]``, the residual stream after the layer.
        router_probabilities: ``[T, E]``, softmax over all experts; None without experts.
    """

    hidden: Floats
    router_probabilities: Floats | None


class Trace(Protocol):
    """What a model computed for T tokens; `ReferenceTrace` and `EngineTrace` are such."""

    @property
    def logits(self) -> Floats:
        """``[T, V]``."""

    @property
    def hidden(self) -> Floats:
        """``[L, T, H]``, the residual stream after each layer, before the final norm."""

    @property
    def router_probabilities(self) -> Floats:
        """``[Lm, T, E]``, of each layer with experts."""


def stacked(parts: Iterable[NDArray[Any] | None], count: int) -> NDArray[Any]:
    """Return values ``[count, …]`` of several layers as ``[layers, count, …]``.

    Layers without experts have None and are left out; with none at all it is ``[0, count, 0]``.
    """
    found = [part for part in parts if part is not None]
    return np.stack(found) if found else np.zeros((0, count, 0), np.float32)
