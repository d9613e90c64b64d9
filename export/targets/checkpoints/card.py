"""The README.md of a quantized checkpoint: what it is, what it was made of, how it is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trtcoder.export.targets.checkpoints.exclusions import summary
from trtcoder.export.targets.checkpoints.form import Form
from trtcoder.export.targets.checkpoints.launch import Launch

_FORMS = {
    Form.FP8_BLOCK: "fp8 (E4M3) with a scale for each 128 x 128 weights; activations are rounded "
    "to fp8 as they come",
    Form.FP8_TENSOR: "fp8 (E4M3) in ModelOpt's form: a scale for each matrix, and one for what it "
    "multiplies, from calibration text",
    Form.NVFP4: "NVFP4 in ModelOpt's form, for Blackwell GPUs: 4-bit floats (E2M1) with an fp8 "
    "scale for each 16, one for each matrix, and one for what it multiplies, from calibration text",
    Form.PACKED: "int4 in groups along the input (compressed-tensors, pack-quantized); activations "
    "stay as they are",
}
_SERVERS = {"tensorrt-llm": "TensorRT-LLM (AutoDeploy)", "vllm": "vLLM", "sglang": "SGLang"}


def card(
    name: str,
    form: Form,
    readers: Sequence[str],
    excluded: Mapping[str, str],
    launches: Sequence[Launch],
    licences: Sequence[str],
) -> str:
    """Return the text; ``licences`` are the files that state the weights' licence."""
    lines = [
        f"# {name}, quantized",
        "",
        f"Made from {name} by trtcoder: {_FORMS[form]}. `parity.json` compares its stored values "
        "with the original; `manifest.json` lists every file with its hash.",
        "",
        "## Serving it",
        "",
        f"Read by {', '.join(_SERVERS[each] for each in readers)}. Each script in `launch/` "
        "starts one of them, and passes on what else it is given. DP under SGLang is groups of "
        "GPUs with all experts each.",
        "",
        "| machine | split | weights a GPU | room for the cache, tokens a GPU | scripts |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for launch in launches:
        scripts = [f"`launch/{each}-{launch.machine.name}.sh`" for each in readers]
        lines.append(
            f"| {launch.machine.name} | {launch.split} | {launch.weights / 1e9:,.1f} GB | "
            f"{launch.cache_tokens:,} | {', '.join(scripts) if launch.fits else 'does not fit'} |"
        )
    lines += [
        "",
        "## What stays in bfloat16",
        "",
        "Besides embedding and norms:",
        "",
        "| module | why |",
        "| --- | --- |",
        *(f"| `{module}` | {reason} |" for module, reason in summary(excluded).items()),
        "",
        "## Licence",
        "",
        f"The weights keep the licence of {name}"
        + (f": {', '.join(licences)} in this folder." if licences else "; look for it there."),
    ]
    return "\n".join(lines) + "\n"
