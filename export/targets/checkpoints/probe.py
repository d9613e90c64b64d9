"""Watches a quantized checkpoint: what its stored values make of text, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trtcoder.export.reference.trace import LayerTrace
from trtcoder.export.targets.checkpoints.forward import Forward, Passing
from trtcoder.export.targets.checkpoints.twin import Twin


class CheckpointProbe:
    """Computes with what a folder stores (see `trtcoder.export.parity.probe.Probe`).

    In float32 but for what is stored in fewer bits: servers compute in bfloat16, which is theirs to
    choose, and each rounds in its own places.
    """

    # It has no cache, so positions may have gaps anywhere.
    block = 1

    def __init__(self, folder: Path, *, rounds_activations: bool) -> None:
        self._forward = Forward(Twin.open(folder), rounds=rounds_activations)

    def versions(self) -> dict[str, str]:
        """Return the versions of what computes."""
        return {"numpy": np.__version__, "ml_dtypes": str(ml_dtypes.__version__)}

    def start(
        self,
        tokens: Sequence[int],
        positions: NDArray[np.int64] | None = None,
        chunk: int | None = None,
    ) -> Passing:
        """Return a sequence before the first layer; without a cache ``chunk`` changes nothing."""
        where = np.arange(len(tokens)) if positions is None else positions
        return self._forward.start(np.asarray(tokens, np.int64), where)

    def embed(self, states: Sequence[Passing]) -> None:
        """Do nothing: `start` has looked the tokens up."""

    def run_layer(self, layer: int, states: Sequence[Passing]) -> list[LayerTrace]:
        """Run all sequences through one decoder layer, and return what it made of each."""
        probabilities = self._forward.run_layer(layer, states)
        traces, start = [], 0
        for state in states:
            stop = start + len(state.stream)
            router = None if probabilities is None else probabilities[start:stop]
            traces.append(LayerTrace(state.stream, router))
            start = stop
        return traces

    def logits(self, states: Sequence[Passing]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each sequence, float32 ``[T, V]``, behind the last layer."""
        for state in states:
            yield self._forward.logits(state)
