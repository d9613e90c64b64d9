"""AWQ: scales of the channels that make the important ones lose less.

Source: Lin et al., AWQ (arXiv 2306.00978), section 3.2: columns of the weights are multiplied by
s = mean|x| ** alpha and the activations divided by it; alpha is searched for the least error of
the matmul. Here the division is folded into what makes the activation, so it costs nothing when
the engine runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.observers import ChannelStatistics

Floats = NDArray[np.float32]
ALPHAS = tuple(step / 20 for step in range(21))
# Scales beyond this would move a norm's weight by more than float32's error budget is worth.
_LARGEST = 1e4


def channel_scale(mean: Floats, alpha: float) -> Floats:
    """Return s ``[K]`` for mean magnitudes ``[K]``: their power, centred on 1.

    Channels that were never active get the smallest scale of the others.
    """
    seen = mean[mean > 0]
    if not seen.size or alpha == 0:
        return np.ones_like(mean)
    powers = np.maximum(mean, seen.min()).astype(np.float64) ** alpha
    scale = powers / np.sqrt(powers.max() * powers.min())
    bounded: Floats = np.clip(scale, 1 / _LARGEST, _LARGEST).astype(np.float32)
    return bounded


def search(
    statistics: ChannelStatistics,
    hessian: Floats,
    matrices: Sequence[tuple[Floats, Callable[[Floats], Floats]]],
) -> Floats:
    """Return the best scale of an activation's channels, float32 ``[K]``.

    The error is the sum over ``matrices`` ``[N, K]``, all of which multiply the activation, of
    ``trace(D H D^T)`` with D the difference that storing makes. With each comes
    a function that returns what it comes back as.
    """
    best, least = np.ones_like(statistics.mean), np.inf
    for alpha in ALPHAS:
        scale = channel_scale(statistics.mean, alpha)
        error = 0.0
        for matrix, restore in matrices:
            difference = restore(matrix * scale) / scale - matrix
            error += float(np.vdot(difference @ hessian, difference))
        if error < least:
            best, least = scale, error
    return best
