"""Arrays that move to disk when together they exceed a limit."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CAP_BYTES = 1 << 30


class ActivationStore:
    """Allocates float32 arrays: in memory up to ``cap`` bytes in all, in mapped files beyond it.

    The files are in ``folder`` (the system's temporary folder when None), without a name, so
    that nothing stays behind however the process ends.
    """

    def __init__(self, cap: int = CAP_BYTES, folder: Path | None = None) -> None:
        self._cap = cap
        self._folder = folder
        self.in_memory = self.on_disk = 0

    def allocate(self, *shape: int) -> NDArray[np.float32]:
        """Return a new array of zeros."""
        size = 4 * math.prod(shape)
        if self.in_memory + size <= self._cap or not size:
            self.in_memory += size
            return np.zeros(shape, np.float32)
        self.on_disk += size
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(size)
            return np.memmap(file, np.float32, "r+", shape=shape)
