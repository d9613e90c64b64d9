"""The targets that there are."""

from __future__ import annotations

from trtcoder.bundle.onnx import TARGET
from trtcoder.errors import BuildError
from trtcoder.export.targets.checkpoints.targets import CompressedTensors, TensorRtLlm
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import Target
from trtcoder.export.targets.tensorrt_rtx.target import TensorRtRtx

DEFAULT = TARGET
_TARGETS: tuple[Target, ...] = (OnnxRuntime(), TensorRtRtx(), TensorRtLlm(), CompressedTensors())
# Asked for, and not to be had: why, and what there is instead. docs/targets.md has the finding.
REFUSED = {
    "tensorrt-llm-engine": "TensorRT-LLM 1.2.1, the last release that compiled engines, cannot "
    "compile this model: its attention asks for weights that its converters do not write "
    "(k_b_proj_trans) and reads others that it does not have (fused_q_proj); use --target "
    "tensorrt-llm, a checkpoint that later releases serve, compressed-tensors, tensorrt-rtx or "
    "onnx",
}
TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}


def find_target(name: str) -> Target:
    """Return the target of that name, as it stands in an engine's manifest.

    Raises:
        BuildError: there is none.
    """
    if name in REFUSED:
        raise BuildError(f"--target {name}: {REFUSED[name]}")
    if name not in TARGETS:
        raise BuildError(f"target: {name!r} is unknown; use one of {', '.join(TARGETS)}")
    return TARGETS[name]
