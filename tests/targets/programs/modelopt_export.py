"""Quantizes a checkpoint with ModelOpt and compares its export: SOURCE, OURS, OUT.

Prints as JSON how many modules are equal, what differs, and what it quantizes that we do not. Of
fp8 its scales are set to ours, which are rounded for bfloat16; of NVFP4 nothing is set, but that
the modules stay in bfloat16 that ours has so.
"""

import copy
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
    wanted, stated = tensors(ours), json.loads((Path(ours) / "hf_quant_config.json").read_text())
    stated = stated["quantization"]
    if stated["quant_algo"] == "NVFP4":
        rules = [
            {"quantizer_name": f"{module}.*", "enable": False}
            for module in stated["exclude_modules"]
        ]
        settings = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
        settings["quant_cfg"] = [*settings["quant_cfg"], *rules]
        mtq.quantize(model, settings, forward_loop=lambda each: each(ids))
        with torch.inference_mode():
            export_hf_checkpoint(model, export_dir=out)
        theirs = json.loads((Path(out) / "hf_quant_config.json").read_text())["quantization"]
        print(json.dumps(compare_nvfp4(wanted, tensors(out), stated, theirs)), flush=True)
        return
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, forward_loop=lambda each: each(ids))
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
        problems += unlike(wanted, found, module, ("weight", "weight_scale", "input_scale"))
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


def compare_nvfp4(
    wanted: Tensors, found: Tensors, ours: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, object]:
    """Return what is equal and what is not: codes and scales must be, to the bit.

    The scale of activations comes from other text.
    """
    problems: list[str] = []
    modules = codes = 0
    for name, value in wanted.items():
        if value.dtype != torch.uint8:
            continue
        module = name.removesuffix(".weight")
        modules += 1
        codes += 2 * value.numel()
        roles = ("weight", "weight_scale", "weight_scale_2", "input_scale")
        differing = unlike(wanted, found, module, roles)
        problems += differing
        if differing:
            continue
        for role in roles[:3]:
            one, other = (side[f"{module}.{role}"].reshape(-1) for side in (wanted, found))
            one, other = one.view(torch.uint8), other.view(torch.uint8)
            if not torch.equal(one, other):
                problems.append(f"{module}.{role}: {int((one != other).sum())} bytes differ")
    more = sum(
        value.dtype == torch.uint8 and wanted[name].dtype != value.dtype
        for name, value in found.items()
        if name in wanted
    )
    problems += [
        f"{key}: {ours[key]}, its is {theirs[key]}"
        for key in ("quant_algo", "kv_cache_quant_algo", "group_size")
        if ours[key] != theirs[key]
    ]
    return {"modules": modules, "codes": codes, "more": more, "problems": problems}


def unlike(wanted: Tensors, found: Tensors, module: str, roles: tuple[str, ...]) -> list[str]:
    """Return which of a module's tensors are missing, or of another type or shape."""
    problems: list[str] = []
    for role in roles:
        one, other = wanted[f"{module}.{role}"], found.get(f"{module}.{role}")
        if other is None:
            problems.append(f"{module}.{role}: not in its export")
        elif (one.dtype, one.shape) != (other.dtype, other.shape):
            problems.append(
                f"{module}.{role}: {one.dtype} {list(one.shape)}, its is {other.dtype} "
                f"{list(other.shape)}"
            )
    return problems


if __name__ == "__main__":
    main()
