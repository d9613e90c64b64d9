"""Tensors of a checkpoint in float64, read with nothing but json and NumPy.

Format: huggingface.co/docs/safetensors: eight bytes with the header's length, little-endian; the
header, JSON; the data, at offsets that count from the header's end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}


class Weights:
    """The tensors of all safetensors files in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                start = 8 + length + entry["data_offsets"][0]
                self._places[name] = (path, entry["dtype"], tuple(entry["shape"]), start)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def dtype(self, name: str) -> str:
        """Return a tensor's type as safetensors names it."""
        return self._places[name][1]

    def raw(self, name: str) -> NDArray[Any]:
        """Return a tensor's stored values; the bits of types that NumPy does not have."""
        path, dtype, shape, start = self._places[name]
        return np.fromfile(path, _STORED[dtype], math.prod(shape), offset=start).reshape(shape)

    def __getitem__(self, name: str) -> Float64:
        stored = self.raw(name)
        if self.dtype(name) == "BF16":  # the upper half of a float32
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        values: Float64 = stored.astype(np.float64)
        return values
