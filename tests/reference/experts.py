"""Routed experts in float64 NumPy, from the paper: what fused kernels must compute.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class PackedExperts:
    """Experts as ONNX Runtime's `QMoE` takes them; gate and up alternate row by row.

    Attributes:
        bits, block: 4 or 8, and the codes that share a scale.
        gate_up: codes uint8 ``[E, 2 I, H * bits / 8]``; of two 4-bit codes the low one is first.
        gate_up_scales: ``[E, 2 I, H / block]``.
        down: codes uint8 ``[E, H, I * bits / 8]``.
        down_scales: ``[E, H, I / block]``.
    """

    bits: int
    block: int
    gate_up: NDArray[np.uint8]
    gate_up_scales: NDArray[Any]
    down: NDArray[np.uint8]
    down_scales: NDArray[Any]

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        experts: int,
        hidden: int,
        inner: int,
        *,
        bits: int,
        block: int,
        dtype: Any,
    ) -> PackedExperts:
        """Return experts whose scales, of ``dtype``, keep outputs near 1 for inputs near 1."""

        def stack(rows: int, width: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
            codes = rng.integers(0, 256, (experts, rows, width * bits // 8), np.uint8)
            step = 2.0 / (2**bits * np.sqrt(width))
            scales = rng.uniform(step, 2 * step, (experts, rows, width // block))
            return codes, scales.astype(dtype)

        return cls(bits, block, *stack(2 * inner, hidden), *stack(hidden, inner))

    def values(self, expert: int) -> tuple[Doubles, Doubles, Doubles]:
        """Return gate and up ``[I, H]`` and down ``[H, I]`` of one expert."""
        both = self._values(self.gate_up[expert], self.gate_up_scales[expert])
        return both[0::2], both[1::2], self._values(self.down[expert], self.down_scales[expert])

    def _values(self, codes: NDArray[np.uint8], scales: NDArray[Any]) -> Doubles:
        whole = codes
        if self.bits == 4:
            whole = np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)
        found: Doubles = whole.astype(np.float64) - 2 ** (self.bits - 1)
        return found * np.repeat(scales.astype(np.float64), self.block, -1)


def chosen_experts(
    logits: NDArray[Any],
    top_k: int,
    *,
    groups: int = 1,
    top_groups: int = 1,
    normalize: bool = False,
    scale: float = 1.0,
) -> list[dict[int, float]]:
    """Return each token's experts and their weights, by softmax over ``logits`` ``[T, E]``."""
    found = []
    for token in np.asarray(logits, np.float64):
        weights = np.exp(token - token.max())
        weights /= weights.sum()
        best = np.argsort(-weights.reshape(groups, -1).max(-1), kind="stable")[:top_groups]
        size = len(token) // groups
        allowed = [expert for expert in range(len(token)) if expert // size in best]
        chosen = sorted(allowed, key=lambda expert: -token[expert])[:top_k]
        total = sum(weights[chosen]) if normalize else 1 / scale
        found.append({expert: float(weights[expert] / total) for expert in chosen})
    return found


def mixed(x: NDArray[Any], experts: PackedExperts, routed: list[dict[int, float]]) -> Doubles:
    """Return the weighted sum of each token's experts for ``x`` ``[T, H]``: ``[T, H]``."""
    inputs = np.asarray(x, np.float64)
    out = np.zeros_like(inputs)
    for expert in sorted({expert for token in routed for expert in token}):
        tokens = [row for row, token in enumerate(routed) if expert in token]
        gate, up, down = experts.values(expert)
        raised = inputs[tokens] @ gate.T
        product = raised / (1 + np.exp(-raised)) * (inputs[tokens] @ up.T)
        weights = np.array([routed[row][expert] for row in tokens])
        out[tokens] += weights[:, None] * (product @ down.T)
    return out
