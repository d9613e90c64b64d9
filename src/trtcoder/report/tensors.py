"""A certificate's tensors, summed up: Lite has about 5,000 of them."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from trtcoder.bundle.provenance import Tensor


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """The tensors of one class.

    Attributes:
        kind: the class.
        tensors: how many there are; each expert's count.
        values: number of weights.
        bytes: stored bytes, with scales and zero points.
        schemes: weights by scheme, the most frequent first.
        methods: weights by method, the most frequent first.
        snr_median: of the tensors that lost something, in decibels; None if none did.
        snr_lowest: the lowest of them.
    """

    kind: str
    tensors: int
    values: int
    bytes: int
    schemes: dict[str, int]
    methods: dict[str, int]
    snr_median: float | None
    snr_lowest: float | None

    @property
    def bits(self) -> float | None:
        """Stored bits per weight."""
        return 8 * self.bytes / self.values if self.values else None


@dataclass(frozen=True, slots=True)
class Fallback:
    """Tensors that were not stored as asked, for one reason."""

    reason: str
    names: tuple[str, ...]


def by_class(tensors: Iterable[Tensor]) -> list[ClassSummary]:
    """Return a summary of each class, the largest first."""
    groups: defaultdict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.kind].append(tensor)
    found = [_summary(kind, group) for kind, group in groups.items()]
    return sorted(found, key=lambda summary: (-summary.bytes, summary.kind))


def snr_by_layer(tensors: Iterable[Tensor]) -> dict[str, dict[int, tuple[float, float]]]:
    """Return (median, lowest) signal-to-noise ratios in decibels by class and layer."""
    groups: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for tensor in _lossy(tensors):
        if tensor.layer is not None:
            groups[tensor.kind][tensor.layer].append(_snr(tensor))
    return {
        kind: {
            layer: (statistics.median(values), min(values))
            for layer, values in sorted(layers.items())
        }
        for kind, layers in sorted(groups.items())
    }


def worst(tensors: Iterable[Tensor], count: int) -> list[Tensor]:
    """Return the tensors with the lowest signal-to-noise ratio, the lowest first."""
    return sorted(_lossy(tensors), key=lambda tensor: (_snr(tensor), tensor.name))[:count]


def fallbacks(tensors: Iterable[Tensor]) -> list[Fallback]:
    """Return the reasons for falling back, the most frequent first."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for tensor in tensors:
        if tensor.fallback is not None:
            groups[tensor.fallback].append(tensor.name)
    found = [Fallback(reason, tuple(names)) for reason, names in groups.items()]
    return sorted(found, key=lambda fallback: (-len(fallback.names), fallback.reason))


def _lossy(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.snr_db is not None]


def _snr(tensor: Tensor) -> float:
    """Return the ratio in decibels; one that is not finite is the worst there is."""
    value = tensor.snr_db
    return value if value is not None and math.isfinite(value) else -math.inf


def _summary(kind: str, tensors: list[Tensor]) -> ClassSummary:
    schemes: Counter[str] = Counter()
    methods: Counter[str] = Counter()
    for tensor in tensors:
        schemes[tensor.scheme] += tensor.values
        methods[tensor.method] += tensor.values
    ratios = [_snr(tensor) for tensor in _lossy(tensors)]
    return ClassSummary(
        kind,
        len(tensors),
        sum(tensor.values for tensor in tensors),
        sum(tensor.bytes for tensor in tensors),
        dict(schemes.most_common()),
        dict(methods.most_common()),
        statistics.median(ratios) if ratios else None,
        min(ratios) if ratios else None,
    )
