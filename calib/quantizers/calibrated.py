"""The quantizer of a calibrated build: rounds with what was observed of activations.

Methods, by name: ``rtn`` looks at nothing; ``clip`` searches each block's grid; ``gptq`` also lets
later columns make good the error of earlier ones; ``awq`` scales channels first and searches the
grid; ``awq+gptq`` does all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.observers import ActivationObserver
from trtcoder.calib.quantizers import awq, gptq
from trtcoder.calib.quantizers.clip import clipped_grid
from trtcoder.calib.quantizers.quantizer import Quantized
from trtcoder.calib.quantizers.rounding import round_to_grid, round_to_nearest
from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
METHODS = ("rtn", "clip", "awq", "gptq", "awq+gptq")


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of an activation.

    ``short`` says why that cannot calibrate, where too few were seen.
    """

    observer: ActivationObserver
    short: str | None = None


class CalibratedQuantizer:
    """Quantizes matrices by what was observed of the activations that they multiply.

    Activations are added before the matrices behind them are asked for, and forgotten when their
    stage is done. A matrix may have observations of its own, such as an expert, which sees only the
    tokens that are routed to it.
    """

    def __init__(self, method: str) -> None:
        """``method`` is one of `METHODS`.

        Raises:
            BuildError: it is not.
        """
        if method not in METHODS:
            raise BuildError(f"method: {method!r} is unknown; use one of {', '.join(METHODS)}")
        self.method = method
        self._observers: dict[str, Callable[[], Observed]] = {}
        self._observed: dict[str, Observed] = {}
        self._columns: dict[str, gptq.ColumnOrder] = {}
        self._scales: dict[str, Floats] = {}
        self._own: dict[str, str] = {}
        self._private: dict[str, tuple[str, ...]] = {}
        self._searches: dict[str, tuple[Callable[[], list[Floats]], Sequence[Scheme]]] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()
        self.on_kept: Callable[[str, int, Floats], None] = lambda name, start, restored: None

    calibrates = True

    @property
    def rescales(self) -> bool:
        """Whether any activation may have a scale."""
        return self.method.startswith("awq")

    @property
    def needs_hessian(self) -> bool:
        """Whether observers must add up Hessians."""
        return self.method not in ("rtn", "clip")

    def add_activation(self, name: str, observe: Callable[[], Observed]) -> None:
        """Make an activation known; ``observe`` is called once, when it is first needed."""
        self._observers[name] = observe

    def set_own_activation(self, name: str, activation: str) -> None:
        """Let the matrix ``name`` be rounded by the observations of another activation."""
        self._own[name] = activation

    def set_private(self, name: str, activations: tuple[str, ...]) -> None:
        """Let the observations of ``activations`` be forgotten when ``name`` is released."""
        self._private[name] = activations

    def add_scale(
        self, activation: str, read: Callable[[], list[Floats]], schemes: Sequence[Scheme]
    ) -> None:
        """Let an activation's scale be searched when it is first asked for.

        ``read`` returns matrices that multiply the activation, stored by ``schemes``.
        """
        self._searches[activation] = (read, schemes)

    def known_activations(self) -> list[str]:
        """Return the activations of this stage."""
        return list(self._observers)

    def forget_activations(self) -> None:
        """Forget all observations; scales stay."""
        for known in (
            self._observers,
            self._observed,
            self._columns,
            self._own,
            self._searches,
            self._private,
        ):
            known.clear()

    def observed(self, key: str) -> Observed:
        """Return an activation's observations."""
        with self._locked(key):
            if key not in self._observed:
                self._observed[key] = self._observers[key]()
            return self._observed[key]

    def input_scale(self, activation: str) -> Floats | None:
        """Return the scale of an activation's channels, or None for ones."""
        if not self.rescales:
            return None
        with self._locked(activation):
            if activation not in self._scales and activation in self._searches:
                self._scales[activation] = self._searched(activation)
            return self._scales.get(activation)

    def quantize(
        self, name: str, activation: str, weights: NDArray[np.generic], scheme: Scheme, start: int
    ) -> Quantized:
        """Round rows ``start`` and on of the tensor ``name`` (see `Quantizer`)."""
        values = np.asarray(weights, np.float32)
        key = self._own.get(name, activation)
        if self.method == "rtn" or key not in self._observers:
            # The embedding multiplies nothing.
            return Quantized(round_to_nearest(values, scheme, name)[0], "rtn")
        found = self.observed(key)
        if found.short is not None:
            return Quantized(round_to_nearest(values, scheme, name)[0], "rtn", fallback=found.short)
        importance = found.observer.statistics().second
        scale = self.input_scale(activation)
        if scale is not None:
            importance = importance / scale**2
        grid = clipped_grid(values, importance, scheme, name)
        if not self.method.endswith("gptq"):
            return Quantized(round_to_grid(values, grid, scheme, name)[0], self.method)
        columns = self._ordered_columns(key, scale)
        return Quantized(gptq.quantize(values, columns, grid, scheme), self.method)

    def amax(self, activation: str) -> float | None:
        """Return the largest magnitude of an activation (see `Quantizer`)."""
        observer = self.observed(activation).observer
        if not observer.tokens:
            return None
        largest = observer.statistics().largest
        scale = self.input_scale(activation)
        return float((largest if scale is None else largest / scale).max())

    def keep(self, name: str, start: int, restored: Floats) -> None:
        """Hand what the stored rows stand for to `on_kept`."""
        self.on_kept(name, start, restored)

    def release(self, name: str) -> None:
        """Forget the observations that only the expert of the matrix ``name`` has."""
        for activation in self._private.pop(name, ()):
            self._observed.pop(activation, None)
            self._columns.pop(activation, None)

    def _searched(self, activation: str) -> Floats:
        found = self.observed(activation)
        read, schemes = self._searches[activation]
        width = found.observer.width
        if found.short is not None:
            return np.ones(width, np.float32)

        def restoring(scheme: Scheme) -> Callable[[Floats], Floats]:
            return lambda matrix: dequantize(
                round_to_nearest(matrix, scheme, activation)[0], scheme, width
            )

        pairs = [(m, restoring(scheme)) for m, scheme in zip(read(), schemes, strict=True)]
        return awq.search(found.observer.statistics(), found.observer.hessian(), pairs)

    def _ordered_columns(self, key: str, scale: Floats | None) -> gptq.ColumnOrder:
        with self._locked(key):
            if key not in self._columns:
                hessian = self.observed(key).observer.hessian()
                if scale is not None:
                    hessian = hessian / np.outer(scale, scale)
                self._columns[key] = gptq.ColumnOrder(hessian, key)
            return self._columns[key]

    def _locked(self, key: str) -> threading.RLock:
        with self._lock:
            return self._locks.setdefault(key, threading.RLock())
