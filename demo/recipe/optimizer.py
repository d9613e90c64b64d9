"""Muon for most matrices; AdamW for embedding, head, norms and everything that gates.

Muon orthogonalises the momentum of each matrix with a Newton-Schulz iteration
(K. Jordan et al., "Muon: an optimizer for hidden layers", 2024).
"""

from __future__ import annotations

from typing import Any

import torch

MUON_RATE, ADAM_RATE = 0.012, 0.003
MOMENTUM = 0.95
WEIGHT_DECAY = 0.05
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest (semi-)orthogonal matrices to ``[..., m, n]``, approximately."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = (x.mT if transposed else x).float()
    return result


class Optimizers:
    """Both optimizers as one."""

    def __init__(self, model: torch.nn.Module) -> None:
        named = dict(model.named_parameters())
        self._matrices = {
            name: weight
            for name, weight in named.items()
            if weight.ndim >= 2 and not name.startswith(("embed", "lm_head")) and "gate" not in name
        }
        others = [weight for name, weight in named.items() if name not in self._matrices]
        self._momentum = {name: torch.zeros_like(w) for name, w in self._matrices.items()}
        self._adam = torch.optim.AdamW(
            others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update every weight at ``factor`` times the base rates, and drop the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = ADAM_RATE * factor
        self._adam.step()
        self._adam.zero_grad()
        for name, weight in self._matrices.items():
            if weight.grad is None:
                continue
            momentum = self._momentum[name]
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = orthogonalise(weight.grad.lerp(momentum, MOMENTUM))
            rows, columns = weight.shape[-2:]
            rate = MUON_RATE * factor
            weight.mul_(1 - rate * WEIGHT_DECAY)
            weight.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        return {"adam": self._adam.state_dict(), "momentum": self._momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._adam.load_state_dict(state["adam"])
        for name, momentum in state["momentum"].items():
            self._momentum[name].copy_(momentum)
