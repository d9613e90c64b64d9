"""What calibration observes of an activation.

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
    """Moments of an activation's channels over the tokens that reached it.

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


class ActivationObserver:
    """Adds up the moments of one activation, and its Hessian if that is wanted.

    A token may count less than others: its values are multiplied with its weight, as what they
    lead to is. The amax is of the values themselves.
    """

    def __init__(self, where: str, width: int, *, with_hessian: bool) -> None:
        """Start empty; ``where`` names it in errors, ``width`` is its K channels."""
        self.where = where
        self.width = width
        self.tokens = 0
        self._largest = np.zeros(width, np.float32)
        self._sum = np.zeros(width, np.float64)
        self._squares = np.zeros(width, np.float64)
        self._hessian = np.zeros((width, width), np.float32) if with_hessian else None

    def add(self, values: Floats, weights: Floats | None = None) -> None:
        """Observe ``values`` ``[T, K]`` of tokens that count ``weights`` ``[T]``.

        Raises:
            BuildError: a value is not finite.
        """
        if not len(values):
            return
        magnitude = np.abs(values)
        np.maximum(self._largest, magnitude.max(axis=0), out=self._largest)
        if weights is not None:
            values = values * weights[:, None]
            magnitude *= np.abs(weights)[:, None]
        self.tokens += len(values)
        self._sum += magnitude.sum(axis=0, dtype=np.float64)
        squares = np.square(magnitude).sum(axis=0, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise BuildError(
                f"{self.where}: calibration found activations that are not finite; "
                "the checkpoint is damaged"
            )
        self._squares += squares
        if self._hessian is not None:
            self._hessian += values.T @ values

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

        It is half the Hessian of the squared error of a matmul with these values.

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
