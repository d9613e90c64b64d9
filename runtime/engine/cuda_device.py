"""Whether this machine has what an engine for CUDA needs, and how its session is opened."""

from __future__ import annotations

import contextlib
import ctypes
import io
from typing import Any

from trtcoder.bundle.onnx import CUDA
from trtcoder.errors import DependencyError, EngineError

_DRIVER = "libcuda.so.1"
# The driver's numbers for major and minor of the compute capability.
_CAPABILITY = (75, 76)
# What onnxruntime-gpu 1.31 is linked with.
_LIBRARIES = (
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
)
# float32 products keep float32's precision: the router decides by their last bits.
_OPTIONS = {"device_id": "0", "use_tf32": "0"}


def require_gpu(instead: str = "an engine that was built without --provider cuda") -> None:
    """Raise unless there are a driver and a GPU; ``instead`` is what runs without one.

    ONNX Runtime itself would say so on standard error, and then run on the CPU or fail.

    Raises:
        DependencyError: there is no driver.
        EngineError: the driver has no GPU.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise DependencyError(
            f"an engine for CUDA needs an NVIDIA GPU and its driver (release 580 or newer), and "
            f"there is none here: {error}; on a machine without one use {instead}"
        ) from error
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise EngineError(
            f"the NVIDIA driver has no GPU for this process (status {status}, {count.value} GPUs); "
            "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"
        )


def device_capability() -> int:
    """Return the compute capability of the first GPU, 89 for 8.9; `require_gpu` comes first."""
    driver, numbers = ctypes.CDLL(_DRIVER), []
    for attribute in _CAPABILITY:
        number = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0)
        numbers.append(number.value)
    major, minor = numbers
    return 10 * major + minor


def load_libraries(ort: Any) -> None:
    """Load CUDA's libraries, of torch or of NVIDIA's packages where they are.

    Raises:
        DependencyError: one is missing.
    """
    # It prints what it does not find, and tries the system's.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls(cudnn=False)
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise DependencyError(
                f"a library of CUDA 13 is missing: {error}; install torch for CUDA 13, or "
                "`pip install 'trtcoder[cuda]'`"
            ) from error


def configure(ort: Any, options: Any) -> list[tuple[str, dict[str, str]]]:
    """Prepare a session's options, and return its providers.

    Raises:
        DependencyError: there is no driver, or a library is missing.
        EngineError: the driver has no GPU.
    """
    require_gpu()
    load_libraries(ort)
    # A node that CUDA does not take would cost two copies a step; a graph of ours has none.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return [(CUDA, _OPTIONS)]
