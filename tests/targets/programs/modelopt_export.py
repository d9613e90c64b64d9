"""Quantizes a checkpoint with ModelOpt and compares its export: SOURCE, OURS, OUT.

Prints as JSON how many modules are equal, what differs, and what it quantizes that we do not.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Tensors = dict[str, torch.Tensor]


def tensors(folder: str) -> Tensors:
    """Return all tensors of a folder."""
    found: Tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        found.update(load_file(path))
    return found


def main() -> None:
    """Run."""
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    source, ours, out = sys.argv[1:4]
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    model = loaded.eval()
    ids = torch.arange(64)[None] % model.config.vocab_size
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, forward_loop=lambda each: each(ids))
    wanted = tensors(ours)
    for name, module in model.named_modules():
        scale = wanted.get(f"{name}.weight_scale")
        if scale is not None and hasattr(module, "weight_quantizer"):
            module.weight_quantizer.amax = scale * 448
            module.input_quantizer.amax = wanted[f"{name}.input_scale"] * 448
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    found = tensors(out)
    print(json.dumps(compare(wanted, found)), flush=True)


def compare(wanted: Tensors, found: Tensors) -> dict[str, object]:
    """Return what is equal and what is not."""
    problems, equal = [], 0
    for name, value in wanted.items():
        if value.dtype != torch.float8_e4m3fn:
            continue
        module = name.removesuffix(".weight")
        for role in ("weight", "weight_scale", "input_scale"):
            one, other = wanted[f"{module}.{role}"], found.get(f"{module}.{role}")
            if other is None:
                problems.append(f"{module}.{role}: not in its export")
            elif (one.dtype, one.shape) != (other.dtype, other.shape):
                problems.append(
                    f"{module}.{role}: {one.dtype} {list(one.shape)}, its is {other.dtype} "
                    f"{list(other.shape)}"
                )
            elif not torch.equal(one.float(), other.float()):
                count = int((one.float() != other.float()).sum())
                problems.append(f"{module}.{role}: {count} values differ")
        equal += 1
    more = sum(
        value.dtype == torch.float8_e4m3fn and wanted[name].dtype != value.dtype
        for name, value in found.items()
        if name in wanted
    )
    return {"modules": equal, "more": more, "problems": problems}


if __name__ == "__main__":
    main()
