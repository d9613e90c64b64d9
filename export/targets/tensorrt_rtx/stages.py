"""How a model is cut into plans: consecutive layers each, as many as the builder can take."""

from __future__ import annotations

from collections.abc import Sequence

# Weights of one plan. The builder holds them about three times over: with 2.1 GB it takes 6.7 GB of
# memory, and beyond 2 GiB it takes longer as well.
PLAN_BYTES = (1 << 31) - (8 << 20)


def split_layers(sizes: Sequence[int], limit: int = PLAN_BYTES) -> list[range]:
    """Return consecutive layers whose weights, ``sizes`` bytes each, take at most ``limit``.

    A layer that takes more has a plan of its own.
    """
    found: list[range] = []
    start, filled = 0, 0
    for layer, size in enumerate(sizes):
        if layer > start and filled + size > limit:
            found.append(range(start, layer))
            start, filled = layer, 0
        filled += size
    return [*found, range(start, len(sizes))] if sizes else []
