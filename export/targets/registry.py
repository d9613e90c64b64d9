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
TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}


def find_target(name: str) -> Target:
    """Return the target of that name, as it stands in an engine's manifest.

    Raises:
        BuildError: there is none.
    """
    if name not in TARGETS:
        raise BuildError(f"target: {name!r} is unknown; use one of {', '.join(TARGETS)}")
    return TARGETS[name]
