from __future__ import annotations

from typing import Any

import pytest
import torch

from demo.recipe.optimizer import MOMENTUM, MUON_RATE, WEIGHT_DECAY, Optimizers

FACTORS = (1.0, 1.0, 0.25)


class Matrices(torch.nn.Module):
    """Two experts as one tensor, one matrix of its own, and a norm that is AdamW's."""

    def __init__(self, experts: torch.Tensor, single: torch.Tensor) -> None:
        super().__init__()
        self.experts = torch.nn.Parameter(experts.clone())
        self.single = torch.nn.Parameter(single.clone())
        self.norm = torch.nn.Parameter(torch.ones(4))


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=["wide", "tall"])
def test_muon_moves_each_matrix_as_torchs_own(shape: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=random) for _ in range(3)]
    gradients = [[torch.randn(shape, generator=random) for _ in start] for _ in FACTORS]
    model = Matrices(torch.stack(start[:2]), start[2])
    ours = Optimizers(model)
    parameters = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    torchs: Any = torch.optim.Muon(
        parameters, lr=MUON_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    for factor, step in zip(FACTORS, gradients, strict=True):
        model.experts.grad, model.single.grad = torch.stack(step[:2]), step[2].clone()
        model.norm.grad = torch.ones(4)
        ours.step(factor)
        torchs.param_groups[0]["lr"] = MUON_RATE * factor
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        torchs.step()
    moved = torch.stack(start)
    wanted = torch.stack([parameter.detach() for parameter in parameters]) - moved
    found = torch.cat([model.experts.detach(), model.single.detach()[None]]) - moved
    # Both iterate in bfloat16 and add up in another order: 3 % of the way, measured. Without weight
    # decay, Nesterov's momentum or the factor of tall matrices it is 20 % and more.
    assert float((found - wanted).norm() / wanted.norm()) < 0.06
