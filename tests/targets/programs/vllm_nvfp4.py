"""Reads NVFP4 modules by vLLM's own reference of its kernels: FOLDER, EXPECTED.

EXPECTED is a safetensors file with what each module stands for, float32 under its name, and with
``activations``, ``input_scale`` and what rounding makes of these, ``rounded``. Prints as JSON how
many modules there are, the largest relative difference of a value, and how many activations of how
many are rounded to another value.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
    dequantize_to_dtype,
    ref_nvfp4_quant_dequant,
)


def main() -> None:
    """Run."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
        tensors.update(load_file(path))
    expected = load_file(sys.argv[2])
    modules, worst = 0, 0.0
    for name, packed in tensors.items():
        if packed.dtype != torch.uint8:
            continue
        module = name.removesuffix(".weight")
        scales = (tensors[f"{module}.{role}"] for role in ("weight_scale", "weight_scale_2"))
        found = dequantize_to_dtype(packed, *scales, torch.float32, swizzle=False)
        wanted = expected[module]
        difference = (found - wanted).abs() / wanted.abs().clamp(min=1e-30)
        worst, modules = max(worst, float(difference.max())), modules + 1
    inverse = 1.0 / expected["input_scale"]
    found = ref_nvfp4_quant_dequant(expected["activations"], inverse, 16)
    near = torch.isclose(found, expected["rounded"], rtol=1e-6, atol=0.0)
    print(
        json.dumps(
            {
                "modules": modules,
                "worst": worst,
                "activations": near.numel(),
                "others": int((~near).sum()),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
