"""YaRN, the rotary embedding's extension to long contexts (arXiv 2309.00071, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """The values of ``rope_scaling`` in config.json."""

    factor: float
    beta_fast: float
    beta_slow: float
    mscale: float
    mscale_all_dim: float
    original_max_position_embeddings: int

    @property
    def softmax_factor(self) -> float:
        """What the softmax scale is multiplied with: mscale(factor, mscale_all_dim) squared."""
        return magnitude(self.factor, self.mscale_all_dim) ** 2

    @property
    def rotary_scale(self) -> float:
        """What cos and sin are multiplied with; 1 on the published models."""
        return magnitude(self.factor, self.mscale) / magnitude(self.factor, self.mscale_all_dim)

    def inverse_frequencies(self, width: int, theta: float) -> NDArray[np.float32]:
        """Return radians a position for each of the ``width / 2`` pairs, float32.

        Fast pairs keep their frequency, slow ones are divided by ``factor``, and a linear ramp
        joins them. Each operation is rounded to float32 as in transformers 5.23.0,
        modeling_rope_utils.py, `_compute_yarn_parameters`.
        """
        low = math.floor(self._pair_of(self.beta_fast, width, theta))
        high = math.ceil(self._pair_of(self.beta_slow, width, theta))
        low, high = max(low, 0), min(high, width - 1)
        span = float(high - low) or 0.001
        pairs = np.arange(width // 2, dtype=np.float32)
        ramp = np.clip((pairs - np.float32(low)) / np.float32(span), 0, 1)
        kept = 1 - ramp
        wavelength = _powers(theta, width)
        extrapolated = np.float32(1) / wavelength
        interpolated = np.float32(1) / (np.float32(self.factor) * wavelength)
        joined: NDArray[np.float32] = interpolated * (1 - kept) + extrapolated * kept
        return joined

    def _pair_of(self, turns: float, width: int, theta: float) -> float:
        """Return the pair that makes ``turns`` turns over the original context."""
        length = self.original_max_position_embeddings
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))


def plain_inverse_frequencies(width: int, theta: float) -> NDArray[np.float32]:
    """Return the frequencies without YaRN."""
    return (np.float32(1) / _powers(theta, width)).astype(np.float32)


def magnitude(factor: float, mscale: float) -> float:
    """Return YaRN's magnitude correction, 0.1 * mscale * ln(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1


def _powers(theta: float, width: int) -> NDArray[np.float32]:
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
