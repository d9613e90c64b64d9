"""What calibration observes of the activations of a site.

Costs, for K channels and T tokens: `ChannelStatistics` adds 4 T K operations and keeps 3 K
numbers; a Hessian adds 2 T K^2 operations and keeps K^2 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
# Tokens whose outer products are added up in one product.
_ROWS = 4096


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

    @classmethod
    def of(cls, activations: Floats, where: str) -> ChannelStatistics:
        """Observe ``activations`` ``[T, K]`` of the site ``where``.

        Raises:
            BuildError: there are no tokens, or a value is not finite.
        """
        if not len(activations):
            raise BuildError(f"{where}: no calibration token reached it")
        magnitude = np.abs(activations)
        found = cls(
            tokens=len(activations),
            largest=magnitude.max(axis=0),
            mean=magnitude.mean(axis=0, dtype=np.float64).astype(np.float32),
            second=np.square(magnitude, dtype=np.float64).mean(axis=0).astype(np.float32),
        )
        if not (np.isfinite(found.largest).all() and np.isfinite(found.second).all()):
            raise BuildError(
                f"{where}: calibration found activations that are not finite; "
                "the checkpoint is damaged"
            )
        return found


def hessian(activations: Floats, where: str, weights: Floats | None = None) -> Floats:
    """Return the mean of ``w^2 x x^T`` over ``activations`` ``[T, K]``: float32 ``[K, K]``.

    It is half the Hessian of the squared error of a product with these activations. ``weights``
    ``[T]`` say how much each token's product counts in what follows.

    Raises:
        BuildError: there are no tokens, or a value is not finite.
    """
    if not len(activations):
        raise BuildError(f"{where}: no calibration token reached it")
    width = activations.shape[1]
    total = np.zeros((width, width), np.float32)
    for start in range(0, len(activations), _ROWS):
        part = activations[start : start + _ROWS]
        if weights is not None:
            part = part * weights[start : start + _ROWS, None]
        total += part.T @ part
    total /= len(activations)
    if not np.isfinite(total).all():
        raise BuildError(
            f"{where}: calibration found activations that are not finite; the checkpoint is damaged"
        )
    return total
