"""Which calibration tokens each expert learns from, and whether they are enough.

An expert learns from the tokens that are routed to it. One that too few reach borrows those that
ranked it next; one that stays short is rounded without calibration, and the certificate names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.provenance import Coverage

Floats = NDArray[np.float32]
# Tokens are borrowed that rank the expert up to here, in multiples of the experts they go to.
_BORROWED_RANKS = 2


@dataclass(frozen=True, slots=True)
class ExpertTokens:
    """What one expert learns from.

    Attributes:
        tokens: int64 ``[n]``, indices of tokens, those that are routed to it first.
        shares: float32 ``[n]``, how much its output counts in each: the mixing weight, or for a
            borrowed token the router's probability.
        short: why these are not enough, or None.
    """

    tokens: NDArray[np.int64]
    shares: Floats
    short: str | None


@dataclass(slots=True)
class ExpertCoverage:
    """How many calibration tokens the experts of each layer saw.

    Attributes:
        minimum: how many an expert needs; one that has fewer is rounded without calibration.
        routed: tokens that were routed to each expert, by layer.
        short: (layer, expert, tokens) of those that stayed below the minimum although they
            borrowed tokens that ranked them next.
    """

    minimum: int
    routed: dict[int, list[int]]
    short: list[tuple[int, int, int]]

    def share_out(
        self, layer: int, probabilities: Floats, mixing: Floats, top_k: int
    ) -> Iterator[ExpertTokens]:
        """Return what each expert of a layer learns from, in their order.

        Args:
            layer: the layer.
            probabilities: ``[T, E]``, the router's.
            mixing: ``[T, E]``, the mixing weights of the chosen experts, zero elsewhere.
            top_k: experts that a token goes to.
        """
        ranks = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1)
        counts = self.routed[layer] = []
        for expert, own_shares in enumerate(mixing.T):
            own = np.flatnonzero(own_shares)
            counts.append(len(own))
            tokens, shares = own, own_shares[own]
            missing = self.minimum - len(own)
            if missing > 0:
                is_near = (ranks[:, expert] < _BORROWED_RANKS * top_k) & (own_shares == 0)
                near = np.flatnonzero(is_near)
                near = near[np.argsort(-probabilities[near, expert], kind="stable")][:missing]
                tokens = np.concatenate([own, near])
                shares = np.concatenate([shares, probabilities[near, expert]])
            short = None
            if len(tokens) < self.minimum:
                self.short.append((layer, expert, len(tokens)))
                short = f"reached by {len(tokens)} calibration tokens, {self.minimum} needed"
            yield ExpertTokens(tokens, shares.astype(np.float32), short)

    def stated(self) -> Coverage:
        """Return what a certificate says of it."""
        routed = {layer: tuple(counts) for layer, counts in sorted(self.routed.items())}
        return Coverage(self.minimum, routed, tuple(sorted(self.short)))
