"""Rotary position embedding with YaRN (arXiv 2309.00071), as DeepSeek-V2 uses it.

Frequencies and angles are formed in float32, everything after them in float64. The model was
trained with float32 angles, and so is served: at position 131,072 the rounding of a frequency
near 1 is an angle of 4e-3, which is no error but part of the model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .weights import Float64

Float32 = NDArray[np.float32]


def rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters under the names of config.json, old style or new."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    theta = config.get("rope_theta", found.get("rope_theta", 10000.0))
    return {**found, "kind": kind, "theta": theta}


def magnitude(factor: float, coefficient: float) -> float:
    """YaRN, section 3.4: sqrt(1/t) = 0.1 ln(s) + 1, with DeepSeek's coefficient on the 0.1."""
    return 0.1 * coefficient * math.log(factor) + 1.0 if factor > 1 else 1.0


def softmax_scale(config: dict[str, Any]) -> float:
    """1 / sqrt(d_h + d_h^R), DeepSeek-V2 equation 46, with YaRN's temperature on q and k."""
    scale: float = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
    rope = rope_parameters(config)
    if rope["kind"] == "yarn" and rope.get("mscale_all_dim"):
        scale *= magnitude(rope["factor"], rope["mscale_all_dim"]) ** 2
    return scale


def inverse_frequencies(width: int, rope: dict[str, Any]) -> Float32:
    """Radians a position, of the ``width / 2`` pairs."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    # float64 and then rounded: what a float32 power gives when it is correctly rounded.
    wavelengths = (float(rope["theta"]) ** exponents.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / wavelengths
    if rope["kind"] == "default":
        return plain
    length = rope["original_max_position_embeddings"]

    def pair(turns: float) -> float:
        """YaRN, section 3.2: the pair that makes so many turns in the old context."""
        return width * math.log(length / (2 * math.pi * turns)) / (2 * math.log(rope["theta"]))

    first = max(math.floor(pair(rope.get("beta_fast", 32))), 0)
    last = min(math.ceil(pair(rope.get("beta_slow", 1))), width - 1)
    pairs = np.arange(width // 2, dtype=np.float32)
    ramp = np.clip((pairs - first) / np.float32(max(last - first, 0.001)), 0, 1)
    stretched = np.float32(1) / (np.float32(rope["factor"]) * wavelengths)
    keep = np.float32(1) - ramp
    mixed: Float32 = stretched * (np.float32(1) - keep) + plain * keep
    return mixed


class Rotary:
    """Turns pairs of neighbouring values by an angle that grows with the position."""

    def __init__(self, config: dict[str, Any], positions: NDArray[np.int64]) -> None:
        rope = rope_parameters(config)
        frequencies = inverse_frequencies(config["qk_rope_head_dim"], rope)
        angles: Float32 = positions.astype(np.float32)[:, None] * frequencies
        scale = 1.0
        if rope["kind"] == "yarn":
            factor = rope["factor"]
            scale = magnitude(factor, rope.get("mscale", 1.0))
            scale /= magnitude(factor, rope.get("mscale_all_dim", 0.0))
        self._cos = np.cos(angles.astype(np.float64)) * scale
        self._sin = np.sin(angles.astype(np.float64)) * scale

    def turn(self, x: Float64) -> Float64:
        """Turn ``[tokens, heads, width]``."""
        even, odd = x[..., 0::2], x[..., 1::2]
        cos, sin = self._cos[:, None], self._sin[:, None]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)
