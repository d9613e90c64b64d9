"""What a step of plans takes that no plan computes: embeddings and rotary angles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import widen
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotary embedding: radians a position float32 ``[rope / 2]``, and a factor."""

    frequencies: Floats
    scale: float

    @classmethod
    def of(cls, config: DeepseekV2Config) -> Rotary:
        """Return that of a model."""
        return cls(config.inverse_frequencies(), config.rotary_scale)

    def angles(self, positions: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return cos and sin of positions ``[T]``, float32 ``[T, rope / 2]``.

        The product is rounded to float32, as in the reference implementation.
        """
        angles = positions.astype(np.float32)[:, None] * self.frequencies
        scale = np.float32(self.scale)
        return np.cos(angles) * scale, np.sin(angles) * scale


def read_embeddings(path: Path, tokens: NDArray[np.int64], hidden: int) -> Floats:
    """Return rows of a table of embeddings, which a file has as bfloat16 ``[V, H]``: ``[T, H]``."""
    table = np.memmap(path, np.uint16, "r")
    rows = len(table) // hidden
    return widen(np.ascontiguousarray(table[: rows * hidden].reshape(rows, hidden)[tokens]))
