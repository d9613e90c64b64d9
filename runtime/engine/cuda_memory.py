"""The memory of one cache input on a GPU, and copies within it.

ONNX Runtime's Python interface copies whole tensors between CPU and GPU, and no parts of them. The
CUDA runtime that its provider has loaded does.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.errors import EngineError

DEVICE = "cuda"
# The release that onnxruntime-gpu 1.31 is made with.
_RUNTIME = "libcudart.so.13"
# ONNX's numbers of the types.
_ELEMENTS = {"int8": 3, "float16": 10, "bfloat16": 16, "float8e4m3fn": 17}
_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3


class CudaMemory:
    """Copies by addresses, each finished when the call returns."""

    def __init__(self) -> None:
        """Find the runtime that the provider has loaded.

        Raises:
            EngineError: it has not.
        """
        try:
            self._runtime = ctypes.CDLL(_RUNTIME)
        except OSError as error:
            raise EngineError(
                f"{_RUNTIME} cannot be loaded: {error}; install torch for CUDA 13, or "
                "`pip install 'trtcoder[cuda]'`"
            ) from error

    def reserve(self, nbytes: int) -> int:
        """Take memory for the rest of the process, all zeros; return its address.

        Raises:
            EngineError: the GPU has not so much left.
        """
        address = ctypes.c_void_p()
        status = self._runtime.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(nbytes))
        if status or not address.value:
            raise EngineError(
                f"the GPU has no {nbytes / 2**20:,.0f} MiB left; close what else uses it, or build "
                "the engine with fewer --slots or a shorter --context"
            )
        self.clear(address.value, nbytes)
        return address.value

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the GPU's memory."""
        self._copy(target, source, nbytes, _WITHIN)

    def read(self, source: int, nbytes: int) -> bytes:
        """Return bytes of the GPU's memory."""
        buffer = ctypes.create_string_buffer(nbytes)
        self._copy(ctypes.addressof(buffer), source, nbytes, _TO_HOST)
        return buffer.raw

    def write(self, target: int, data: bytes) -> None:
        """Set bytes of the GPU's memory."""
        buffer = ctypes.create_string_buffer(data, len(data))
        self._copy(target, ctypes.addressof(buffer), len(data), _TO_DEVICE)

    def clear(self, target: int, nbytes: int) -> None:
        """Set bytes of the GPU's memory to zero."""
        status = self._runtime.cudaMemset(
            ctypes.c_void_p(target), ctypes.c_int(0), ctypes.c_size_t(nbytes)
        )
        self._check(status)
        self._check(self._runtime.cudaDeviceSynchronize())

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        status = self._runtime.cudaMemcpy(
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(nbytes),
            ctypes.c_int(kind),
        )
        self._check(status)
        # A copy within the GPU returns before it is done.
        self._check(self._runtime.cudaDeviceSynchronize())

    def _check(self, status: int) -> None:
        if status:
            text = self._runtime.cudaGetErrorString
            text.restype = ctypes.c_char_p
            raise EngineError(f"CUDA error {status}: {text(status).decode()}")


@dataclass(frozen=True, slots=True)
class DeviceArena:
    """The rows of one cache input, ``[blocks, rows of a block, 1, width]`` (see `Arena`)."""

    info: CacheInfo
    value: Any
    rows: int
    memory: CudaMemory

    @classmethod
    def reserve(cls, info: CacheInfo, blocks: int, block: int, memory: CudaMemory) -> DeviceArena:
        """Take the memory.

        Raises:
            EngineError: there is not so much.
        """
        import onnxruntime

        shape = [blocks, block, 1, info.width]
        size = blocks * block * info.row_nbytes
        try:
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                shape, _ELEMENTS[info.dtype], DEVICE, 0
            )
        except Exception as error:  # onnxruntime's classes share no public base
            raise EngineError(
                f"{info.name}: the GPU has no {size / 2**20:,.0f} MiB left for the cache; ask for "
                "a shorter context"
            ) from error
        memory.clear(value.data_ptr(), size)
        return cls(info, value, blocks * block, memory)

    def copy(self, source: int, target: int, rows: int) -> None:
        """Copy ``rows`` rows from row ``source`` on to row ``target`` on."""
        self.memory.copy(self._address(target), self._address(source), rows * self.info.row_nbytes)

    def read(self, start: int, rows: int) -> bytes:
        """Return the bytes of rows."""
        return self.memory.read(self._address(start), rows * self.info.row_nbytes)

    def write(self, start: int, data: bytes) -> None:
        """Set rows to what `read` returned."""
        self.memory.write(self._address(start), data)

    def clear(self, rows: NDArray[np.int64]) -> None:
        """Set rows to zero."""
        for row in rows.tolist():
            self.memory.clear(self._address(row), self.info.row_nbytes)

    def _address(self, row: int) -> int:
        return int(self.value.data_ptr()) + row * self.info.row_nbytes
