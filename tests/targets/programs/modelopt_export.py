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
    """Return what is equal and what is not.

    It divides by the scale in bfloat16, so a code may be the next one; scales of experts are its
    own, as it takes no others for these.
    """
    problems: list[str] = []
    modules = alike = codes = next_ones = 0
    for name, value in wanted.items():
        if value.dtype != torch.float8_e4m3fn:
            continue
        module = name.removesuffix(".weight")
        modules += 1
        for role in ("weight", "weight_scale", "input_scale"):
            one, other = wanted[f"{module}.{role}"], found.get(f"{module}.{role}")
            if other is None:
                problems.append(f"{module}.{role}: not in its export")
            elif (one.dtype, one.shape) != (other.dtype, other.shape):
                problems.append(
                    f"{module}.{role}: {one.dtype} {list(one.shape)}, its is {other.dtype} "
                    f"{list(other.shape)}"
                )
        scales = [side.get(f"{module}.weight_scale") for side in (wanted, found)]
        if scales[0] is None or scales[1] is None or not torch.equal(scales[0], scales[1]):
            continue
        alike += 1
        steps = (value.view(torch.uint8).int() - found[name].view(torch.uint8).int()).abs()
        codes += steps.numel()
        next_ones += int((steps == 1).sum())
        if int(steps.max()) > 1:
            problems.append(f"{name}: {int((steps > 1).sum())} codes are more than one step away")
    more = sum(
        value.dtype == torch.float8_e4m3fn and wanted[name].dtype != value.dtype
        for name, value in found.items()
        if name in wanted
    )
    return {
        "modules": modules,
        "alike": alike,
        "codes": codes,
        "next": next_ones,
        "more": more,
        "problems": problems,
    }


if __name__ == "__main__":
    main()
