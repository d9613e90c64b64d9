"""Which GPUs plans can be compiled for, and with which weights."""

from __future__ import annotations

import re

import pytest

from trtcoder.errors import BuildError
from trtcoder.tensorrt_rtx.gpus import DEFAULT, GPUS, check_gpus, default_gpus


def test_what_is_compiled_for_by_default_can_be_compiled_for() -> None:
    check_gpus(DEFAULT, "int4")
    check_gpus((80, 121), "int4")
    check_gpus(default_gpus("int4+fp8"), "int4+fp8")
    assert default_gpus("int4") == DEFAULT
    assert default_gpus("int4+fp8") == (89, 120)


@pytest.mark.parametrize(
    ("capabilities", "weights", "message"),
    [
        ((75,), "int4", r"75 \(RTX 20\): has no int4 kernels; these have: 80, 86"),
        ((89, 120, 80), "int4+fp8", r"80 \(A100\): has no fp8 kernels; these have: 89, 120, 121"),
        ((75, 89), "int4+fp8", r"75 \(RTX 20\): has no int4 kernels; these have: 80, 86"),
        ((86, 89), "fp8", r"86 \(RTX 30\): has no fp8 kernels; these have: 89, 120, 121"),
        ((89, 90), "int4", r"90 \(H100, H200\): TensorRT-RTX does not compile for it; use --tar"),
        ((87,), "int4", r"87 \(Jetson Orin\): TensorRT-RTX does not.*--target onnx"),
        ((61,), "int4", r"61 is unknown to TensorRT-RTX; use some of 75 \(RTX 20\), 80"),
        ((86, 86), "int4", "86 is named twice"),
        ((), "int4", "none is named"),
        ((86,), "int8", "86.*has no int8 kernels; these have: none"),
    ],
)
def test_a_gpu_that_cannot_run_a_plan_is_named(
    capabilities: tuple[int, ...], weights: str, message: str
) -> None:
    with pytest.raises(BuildError) as caught:
        check_gpus(capabilities, weights)
    assert re.search(message, str(caught.value)), caught.value


def test_what_is_known_is_what_the_builder_has() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    names = {name for name in dir(rtx.ComputeCapability) if name.startswith("SM")}
    assert names == {f"SM{number}" for number in GPUS}
