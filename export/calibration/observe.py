"""Runs sequences through a layer, several at a time, and takes down what its matmuls take."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from trtcoder.cores import available_cores
from trtcoder.export.reference.model import SequenceState, TransformersReference

if TYPE_CHECKING:
    import torch


@contextmanager
def parallel() -> Iterator[ThreadPoolExecutor]:
    """Return a pool of a thread a core, each of which computes by itself.

    One sequence's matmuls are too small to be shared among threads, which would spend their time
    waiting for each other. And sums do not depend on the number of cores.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


@dataclass(slots=True)
class Seen:
    """What one sequence of T tokens showed of a layer.

    Attributes:
        activations: float32 ``[T, K]`` by name.
        routed: logits ``[T, E]``, mixing weights and ids of the chosen experts ``[T, k]``; None
            without experts.
    """

    activations: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    routed: tuple[torch.Tensor, ...] | None = None


class LayerWatch:
    """Watches a layer of the reference while sequences pass it."""

    def __init__(
        self,
        reference: TransformersReference,
        module: Any,
        watched: Mapping[str, Any],
        gate: Any | None,
    ) -> None:
        """Hook into ``module``.

        Args:
            reference: what runs the layer.
            module: the layer.
            watched: by the activation's name, the module whose input it is.
            gate: the router, if the layer has experts.
        """
        self._reference, self._module = reference, module
        self._local = threading.local()
        self._hooks = [
            each.register_forward_pre_hook(self._watch(name)) for name, each in watched.items()
        ]
        if gate is not None:
            self._hooks.append(gate.register_forward_hook(self._watch_routing))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def run(self, state: SequenceState) -> Seen:
        """Run one sequence; its state stays as it is. May be called in several threads."""
        import torch

        self._local.seen = Seen()
        with torch.inference_mode():
            self._reference.forward(self._module, state)
        seen: Seen = self._local.seen
        return seen

    def _watch(self, name: str) -> Any:
        def observe(module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            x = arguments[0]
            self._local.seen.activations[name] = x.reshape(-1, x.shape[-1]).numpy()

        return observe

    def _watch_routing(self, gate: Any, inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        self._local.seen.routed = output
