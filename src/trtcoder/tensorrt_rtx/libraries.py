"""Loads TensorRT-RTX with its plugins into this process."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtcoder.errors import DependencyError
from trtcoder.tensorrt_rtx.shell_library import shell_library

PACKAGE = "tensorrt-rtx-cu13"
# Its own dependencies are ONNX Runtime's; of this package only two libraries are loaded.
PLUGIN_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
_MODULES = {PACKAGE: "tensorrt_rtx", PLUGIN_PACKAGE: "onnxruntime_ep_nv_tensorrt_rtx"}
# What the plugins call of the driver.
_DRIVER = (
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuInit",
    "cuLaunchKernel",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
)


def require_packages() -> None:
    """Raise DependencyError unless TensorRT-RTX and its plugins are installed."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise DependencyError(
            "TensorRT-RTX: trtcoder loads it on x86-64 Linux; build and serve such engines there"
        )
    missing = [name for name, module in _MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        commands = {
            PACKAGE: "`pip install 'trtcoder[rtx]'`",
            PLUGIN_PACKAGE: f"`pip install --no-deps {PLUGIN_PACKAGE}`",
        }
        raise DependencyError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; "
            f"{', then '.join(commands[name] for name in missing)}"
        )


def versions() -> dict[str, str]:
    """Return the versions of both packages, as far as they are installed."""
    found = {}
    for name in _MODULES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def load() -> Any:
    """Return the module `tensorrt_rtx`, its plugins registered.

    Without NVIDIA's driver that is enough to compile plans, and not to run them.

    Raises:
        DependencyError: a package is missing, or a library cannot be loaded.
    """
    require_packages()
    folder = _folder(PLUGIN_PACKAGE)
    try:
        import tensorrt_rtx

        _load_driver()
        # Plugins look for this name when a layer is made, and find it among what is loaded.
        _load_shell("libtensorrt_rtx.so", needed=["libtensorrt_rtx.so.1"])
        for runtime in sorted(folder.glob("libcudart.so.13*")):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        plugins = ctypes.CDLL(str(folder / "libtensorrt_plugins.so"), mode=ctypes.RTLD_GLOBAL)
    except (OSError, ImportError) as error:
        raise DependencyError(
            f"TensorRT-RTX cannot be loaded: {error}; install {PACKAGE} and {PLUGIN_PACKAGE} anew"
        ) from error
    register = plugins.initLibNvTensorRTRtxPlugins
    register.restype, register.argtypes = ctypes.c_bool, [ctypes.c_void_p, ctypes.c_char_p]
    if not register(None, b""):
        raise DependencyError(
            f"{PLUGIN_PACKAGE}: its plugins do not go with this TensorRT-RTX; install {PACKAGE} "
            "and it in versions that go together"
        )
    return tensorrt_rtx


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(_MODULES[package])
    locations = [] if spec is None else list(spec.submodule_search_locations or [])
    if not locations:
        raise DependencyError(f"{package}: is not where its package says; install it anew")
    return Path(locations[0])


def _load_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _load_shell("libcuda.so.1", _DRIVER)


def _load_shell(name: str, functions: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
    # What is loaded stays so without its file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(shell_library(name, functions, needed))
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
