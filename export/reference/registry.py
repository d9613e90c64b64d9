"""Which reference judges engines of a checkpoint: `model_type` of its config.json says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.reference.model import TransformersReference
from trtcoder.export.reference.trace import LayerTrace

State = TypeVar("State")


class Reference(Protocol[State]):
    """Runs sequences through a checkpoint in float32, layer by layer, all of them side by side."""

    def embed(self, ids: NDArray[np.int64], where: int | NDArray[np.int64] = 0) -> State:
        """Return a sequence before the first layer; ``where`` is its first position, or all."""

    def run_layer(self, layer: int, states: Sequence[State]) -> Sequence[LayerTrace]:
        """Run all sequences through one decoder layer, and return what it made of each."""

    def logits(self, states: Sequence[State]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each sequence, float32 ``[T, V]``, behind the last layer."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what computes it."""


REFERENCES: dict[str, Callable[[Checkpoint], Reference[Any]]] = {
    "deepseek_v2": TransformersReference
}


def open_reference(checkpoint: Checkpoint) -> Reference[Any]:
    """Return what judges engines of a checkpoint.

    Raises:
        BuildError: there is no reference for this architecture.
        DependencyError: a package of the reference is missing.
        ConfigError: the reference cannot judge this configuration.
    """
    model_type = str(checkpoint.config.raw.get("model_type"))
    if model_type not in REFERENCES:
        raise BuildError(
            f"{checkpoint.folder}: there is no reference for model_type {model_type!r}, only for "
            f"{', '.join(sorted(REFERENCES))}"
        )
    return REFERENCES[model_type](checkpoint)
