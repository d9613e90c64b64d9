"""The memory of one cache input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.errors import EngineError

_CACHE_LINE = 64


@dataclass(frozen=True, slots=True)
class Arena:
    """The rows of one cache input: [rows, width]."""

    info: CacheInfo
    array: NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]
    pointer: int

    @classmethod
    def reserve(cls, info: CacheInfo, rows: int) -> Arena:
        """Reserve address space; the system gives zeroed pages to the rows that are written.

        Zeros matter: with stock kernels attention multiplies rows that no token owns by 0, and
        0 x NaN is NaN.

        Raises:
            EngineError: there is not so much address space.
        """
        dtype = np.dtype(info.dtype)
        size = rows * info.width * dtype.itemsize
        try:
            memory = np.zeros(size + _CACHE_LINE, np.uint8)
        except (MemoryError, ValueError) as error:
            raise EngineError(
                f"{info.name}: cannot reserve {size / 2**20:,.0f} MiB of cache; "
                "ask for a shorter context"
            ) from error
        start = -memory.ctypes.data % _CACHE_LINE
        array = memory[start : start + size].view(dtype).reshape(rows, info.width)
        return cls(info, array, array.ctypes.data)

    def copy(self, source: int, target: int, rows: int) -> None:
        """Copy ``rows`` rows from row ``source`` on to row ``target`` on."""
        self.array[target : target + rows] = self.array[source : source + rows]

    def read(self, start: int, rows: int) -> bytes:
        """Return the bytes of rows."""
        return self.array[start : start + rows].tobytes()

    def write(self, start: int, data: bytes) -> None:
        """Set rows to what `read` returned."""
        found = np.frombuffer(data, self.array.dtype).reshape(-1, self.info.width)
        self.array[start : start + len(found)] = found

    def clear(self, rows: NDArray[np.int64]) -> None:
        """Set rows to zero."""
        self.array[rows] = 0
