"""Rounds matrices to NVFP4 with ModelOpt; prints them and what it makes of them as JSON.

It made tests/calib/modelopt_nvfp4.json:
python tests/targets/programs/modelopt_nvfp4.py > tests/calib/modelopt_nvfp4.json
"""

import json
from importlib.metadata import version

import torch
from modelopt.torch.quantization.qtensor import NVFP4QTensor


def matrices() -> dict[str, torch.Tensor]:
    """Return matrices in bfloat16: common ones, and where roundings could differ."""
    torch.manual_seed(7)
    spread = torch.randn(8, 32) * torch.exp(3 * torch.randn(8, 2).repeat_interleave(16, 1))
    # Under a scale of 1 and blocks' scales of 1: all codes, what lies half-way, and just beside it.
    halves = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    ties = torch.zeros(4, 16)
    ties[0, :7], ties[0, 8:15] = halves, -halves
    ties[1, :7], ties[1, 8:15] = halves * (1 + 2**-7), -halves * (1 - 2**-7)
    ties[2, :8] = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -0.0])
    ties[2, 8:15] = -ties[2, 1:8]
    ties[:3, 15] = 6
    ties[3] = 2688
    # Blocks' scales down to the least one of E4M3 and below it, zeros, and what becomes zero.
    small = torch.randn(24, 16) * 2.0 ** -torch.arange(24)[:, None]
    small[0, 0], small[20] = 2688, 0
    return {
        "normal": torch.randn(8, 32).bfloat16(),
        "spread": spread.bfloat16(),
        "ties": ties.bfloat16(),
        "small": small.bfloat16(),
        "tiny": (torch.randn(4, 32) * 2.0**-100).bfloat16(),
    }


def main() -> None:
    """Run."""
    found = {}
    for name, weights in matrices().items():
        scale = NVFP4QTensor.get_weights_scaling_factor_2(weights)
        tensor, scales, scale = NVFP4QTensor.quantize(weights.clone(), 16, None, scale)
        found[name] = {
            "weights": weights.view(torch.int16).to(torch.int32).bitwise_and(0xFFFF).tolist(),
            "packed": tensor._quantized_data.tolist(),
            "scales": scales.view(torch.uint8).tolist(),
            "scale": scale.view(torch.int32).item(),
        }
    versions = {package: version(package) for package in ("nvidia-modelopt", "torch")}
    print(json.dumps({"versions": versions, "matrices": found}))


if __name__ == "__main__":
    main()
