"""An engine's figures among Triton's metrics, which are told and not asked for."""

from __future__ import annotations

import time
from typing import Any

from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.figures import COUNTERS, GAUGES, Figure

# Seconds between two looks: each change is a message to the server.
_INTERVAL = 0.25


class Metrics:
    """Tells Triton what has changed."""

    def __init__(self, backend: Any, core: EngineCore, model: str, version: str) -> None:
        """Declare all figures; ``backend`` is Triton's `triton_python_backend_utils`."""
        self._core = core
        self._due = 0.0
        labels = {"model": model, "version": version}
        self._families = []
        self._metrics: list[tuple[Figure, Any, bool]] = []
        self._told: dict[str, float] = {}
        for figures, kind in (
            (GAUGES, backend.MetricFamily.GAUGE),
            (COUNTERS, backend.MetricFamily.COUNTER),
        ):
            for figure in figures:
                # As Prometheus would have it, of which Triton's own names are too.
                total = "_total" if figures is COUNTERS else ""
                family = backend.MetricFamily(
                    name=f"trtcoder:{figure.name}{total}", description=figure.text, kind=kind
                )
                metric = family.Metric(labels=labels)
                self._families.append(family)
                self._metrics.append((figure, metric, figures is COUNTERS))
                self._told[figure.name] = 0.0

    def beat(self) -> None:
        """Tell what has changed, if it is time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _INTERVAL
        self.tell()

    def tell(self) -> None:
        """Tell what has changed."""
        for figure, metric, only_rises in self._metrics:
            value = figure.value(self._core)
            before = self._told[figure.name]
            if value == before:
                continue
            if only_rises:
                metric.increment(value - before)
            else:
                metric.set(value)
            self._told[figure.name] = value

    def close(self) -> None:
        """Give the metrics back, before their families."""
        self._metrics.clear()
        self._families.clear()
