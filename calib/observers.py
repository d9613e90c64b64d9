"""What calibration observes of the activations of a site.

Costs, for K channels and T tokens: the channels' moments take 4 T K operations and 3 K numbers,
the Hessian 2 T K^2 operations and K^2 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import BuildError

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Moments of the channels of a site over the tokens that reached it.

    Attributes:
        tokens: how many tokens.
        largest: float32 ``[K]``, the largest magnitude of each channel.
        mean: float32 ``[K]``, the mean magnitude.
        second: float32 ``[K]``, the mean square.
    """

    tokens: int
    largest: Floats
    mean: Floats
    second: Floats

    @property
    def amax(self) -> float:
        """The largest magnitude of all channels."""
        return float(self.largest.max())


class SiteObserver:
    """Adds up the moments of one site's activations, and its Hessian if that is wanted.

    A token may count less than others: its activations are multiplied with its weight, as what
    they lead to is. The amax is of the activations themselves.
    """

    def __init__(self, where: str, width: int, *, with_hessian: bool) -> None:
        """Start empty; ``where`` names the site in errors, ``width`` is its K channels."""
        self.where = where
        self.width = width
        self.tokens = 0
        self._largest = np.zeros(width, np.float32)
        self._sum = np.zeros(width, np.float64)
        self._squares = np.zeros(width, np.float64)
        self._hessian = np.zeros((width, width), np.float32) if with_hessian else None

    def add(self, activations: Floats, weights: Floats | None = None) -> None:
        """Observe ``activations`` ``[T, K]`` of tokens that count ``weights`` ``[T]``.

        Raises:
            BuildError: a value is not finite.
        """
        if not len(activations):
            return
        magnitude = np.abs(activations)
        np.maximum(self._largest, magnitude.max(axis=0), out=self._largest)
        if weights is not None:
            activations = activations * weights[:, None]
            magnitude *= np.abs(weights)[:, None]
        self.tokens += len(activations)
        self._sum += magnitude.sum(axis=0, dtype=np.float64)
        squares = np.square(magnitude).sum(axis=0, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise BuildError(
                f"{self.where}: calibration found activations that are not finite; "
                "the checkpoint is damaged"
            )
        self._squares += squares
        if self._hessian is not None:
            self._hessian += activations.T @ activations

    def statistics(self) -> ChannelStatistics:
        """Return the moments.

        Raises:
            BuildError: no token was observed.
        """
        self._refuse_empty()
        return ChannelStatistics(
            self.tokens,
            self._largest,
            (self._sum / self.tokens).astype(np.float32),
            (self._squares / self.tokens).astype(np.float32),
        )

    def hessian(self) -> Floats:
        """Return the mean of ``x x^T``, float32 ``[K, K]``.

        It is half the Hessian of the squared error of a product with these activations.

        Raises:
            BuildError: no token was observed, or the observer was made without it.
        """
        self._refuse_empty()
        if self._hessian is None:
            raise BuildError(f"{self.where}: its Hessian was not observed")
        return self._hessian / np.float32(self.tokens)

    def _refuse_empty(self) -> None:
        if not self.tokens:
            raise BuildError(f"{self.where}: no calibration token reached it")
