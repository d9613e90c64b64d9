"""The quantizer of a calibrated build: rounds with what was observed of each site.

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

from trtcoder.calib.observers import SiteObserver
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
class Site:
    """What is known of the activations that a matrix multiplies.

    ``short`` says why they cannot calibrate, where too few were seen.
    """

    observer: SiteObserver
    short: str | None = None


class CalibratedQuantizer:
    """Quantizes matrices by what was observed of their sites.

    Sites are added before the matrices behind them are asked for, and dropped when their stage
    is done. A matrix may have observations of its own, such as an expert, which sees only the
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
        self._observers: dict[str, Callable[[], Site]] = {}
        self._sites: dict[str, Site] = {}
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
        """Whether any site may have a scale."""
        return self.method.startswith("awq")

    @property
    def needs_hessian(self) -> bool:
        """Whether observers must add up Hessians."""
        return self.method not in ("rtn", "clip")

    def add_site(self, site: str, observe: Callable[[], Site]) -> None:
        """Make a site known; ``observe`` is called once, when it is first needed."""
        self._observers[site] = observe

    def set_own_site(self, name: str, site: str) -> None:
        """Let the matrix ``name`` be rounded by another site's observations than its input's."""
        self._own[name] = site

    def set_private(self, name: str, sites: tuple[str, ...]) -> None:
        """Let the observations of ``sites`` be forgotten when ``name`` is released."""
        self._private[name] = sites

    def add_scale(
        self, site: str, read: Callable[[], list[Floats]], schemes: Sequence[Scheme]
    ) -> None:
        """Let a site's scale be searched when it is first asked for.

        ``read`` returns matrices that multiply the site's activations, stored by ``schemes``.
        """
        self._searches[site] = (read, schemes)

    def known_sites(self) -> list[str]:
        """Return the sites of this stage."""
        return list(self._observers)

    def drop_sites(self) -> None:
        """Forget all observations; scales stay."""
        for known in (
            self._observers,
            self._sites,
            self._columns,
            self._own,
            self._searches,
            self._private,
        ):
            known.clear()

    def site(self, key: str) -> Site:
        """Return a site's observations."""
        with self._locked(key):
            if key not in self._sites:
                self._sites[key] = self._observers[key]()
            return self._sites[key]

    def input_scale(self, site: str) -> Floats | None:
        """Return the scale of a site's channels, or None for ones."""
        if not self.rescales:
            return None
        with self._locked(site):
            if site not in self._scales and site in self._searches:
                self._scales[site] = self._searched(site)
            return self._scales.get(site)

    def quantize(
        self, name: str, site: str, weights: NDArray[np.generic], scheme: Scheme, start: int
    ) -> Quantized:
        """Round rows ``start`` and on of the tensor ``name`` (see `Quantizer`)."""
        values = np.asarray(weights, np.float32)
        key = self._own.get(name, site)
        if self.method == "rtn" or key not in self._observers:
            # The embedding multiplies nothing.
            return Quantized(round_to_nearest(values, scheme, name)[0], "rtn")
        found = self.site(key)
        if found.short is not None:
            return Quantized(round_to_nearest(values, scheme, name)[0], "rtn", fallback=found.short)
        importance = found.observer.statistics().second
        scale = self.input_scale(site)
        if scale is not None:
            importance = importance / scale**2
        grid = clipped_grid(values, importance, scheme, name)
        if not self.method.endswith("gptq"):
            return Quantized(round_to_grid(values, grid, scheme, name)[0], self.method)
        columns = self._ordered_columns(key, scale)
        return Quantized(gptq.quantize(values, columns, grid, scheme), self.method)

    def amax(self, site: str) -> float | None:
        """Return the largest magnitude of a site's activations (see `Quantizer`)."""
        observer = self.site(site).observer
        if not observer.tokens:
            return None
        largest = observer.statistics().largest
        scale = self.input_scale(site)
        return float((largest if scale is None else largest / scale).max())

    def keep(self, name: str, start: int, restored: Floats) -> None:
        """Hand what the stored rows stand for to `on_kept`."""
        self.on_kept(name, start, restored)

    def release(self, name: str) -> None:
        """Forget the observations that only the expert of the matrix ``name`` has."""
        for site in self._private.pop(name, ()):
            self._sites.pop(site, None)
            self._columns.pop(site, None)

    def _searched(self, site: str) -> Floats:
        found = self.site(site)
        read, schemes = self._searches[site]
        width = found.observer.width
        if found.short is not None:
            return np.ones(width, np.float32)

        def restoring(scheme: Scheme) -> Callable[[Floats], Floats]:
            return lambda matrix: dequantize(
                round_to_nearest(matrix, scheme, site)[0], scheme, width
            )

        pairs = [(m, restoring(scheme)) for m, scheme in zip(read(), schemes, strict=True)]
        return awq.search(found.observer.statistics(), found.observer.hessian(), pairs)

    def _ordered_columns(self, key: str, scale: Floats | None) -> gptq.ColumnOrder:
        with self._locked(key):
            if key not in self._columns:
                hessian = self.site(key).observer.hessian()
                if scale is not None:
                    hessian = hessian / np.outer(scale, scale)
                self._columns[key] = gptq.ColumnOrder(hessian, key)
            return self._columns[key]

    def _locked(self, key: str) -> threading.RLock:
        with self._lock:
            return self._locks.setdefault(key, threading.RLock())
