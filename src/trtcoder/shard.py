"""One safetensors file, mapped and checked.

The format: eight bytes of header length (little-endian), a JSON header that gives each tensor's
type, shape and byte range, and the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import CheckpointError

# Stored type -> the NumPy type of its view. NumPy has no bfloat16: its bits are seen as uint16.
VIEWS: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
MAX_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Shard:
    """A mapped file."""

    path: Path
    mapped: mmap.mmap


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor is: ``nbytes`` bytes at ``offset`` of its shard."""

    shard: Shard
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def view(self) -> NDArray[np.generic]:
        """Return the tensor as a read-only view of the mapped file."""
        count = math.prod(self.shape)
        flat = np.frombuffer(self.shard.mapped, VIEWS[self.dtype], count, self.offset)
        return flat.reshape(self.shape)

    def release(self) -> None:
        """Take the tensor's pages out of this process; reading it again maps them anew."""
        start = self.offset // mmap.PAGESIZE * mmap.PAGESIZE
        length = self.offset + self.nbytes - start
        if length and hasattr(mmap, "MADV_DONTNEED"):
            self.shard.mapped.madvise(mmap.MADV_DONTNEED, start, length)

    def bytes(self) -> memoryview:
        """Return the tensor's bytes."""
        return memoryview(self.shard.mapped)[self.offset : self.offset + self.nbytes]


def read_shard(path: Path) -> dict[str, Stored]:
    """Map a file and return its tensors.

    Raises:
        CheckpointError: the file is missing, truncated, or not safetensors; or a tensor has a
            type that trtcoder does not read, or a range that does not fit.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing; download it again") from error
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise CheckpointError(f"{path}: cannot be mapped: {error}; download it again") from error
    header, start = _header(path, mapped)
    header.pop("__metadata__", None)
    shard = Shard(path, mapped)
    found = {name: _stored(shard, name, entry, start) for name, entry in header.items()}
    end = max((stored.offset + stored.nbytes for stored in found.values()), default=start)
    if end > len(mapped):
        raise CheckpointError(
            f"{path}: is truncated: {len(mapped):,} bytes, its header describes {end:,}; "
            "download it again"
        )
    if end < len(mapped):
        raise CheckpointError(
            f"{path}: has {len(mapped) - end:,} bytes that its header does not describe; "
            "download it again"
        )
    return found


def _header(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(mapped[:8], "little")
    if len(mapped) < 8 or length > min(MAX_HEADER, len(mapped) - 8):
        raise CheckpointError(
            f"{path}: is truncated or not a safetensors file: its header would have "
            f"{length:,} bytes of {len(mapped):,}; download it again"
        )
    try:
        header = json.loads(mapped[8 : 8 + length])
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its header is not JSON: {error}; download it again"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not an object; download it again")
    return header, 8 + length


def _stored(shard: Shard, name: str, entry: Any, start: int) -> Stored:
    where = f"{shard.path}: {name}"
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        valid = all(type(n) is int and n >= 0 for n in (*shape, first, last))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: has a malformed header entry; download it again"
        ) from error
    if not valid or first > last:
        raise CheckpointError(f"{where}: has a malformed header entry; download it again")
    if not isinstance(dtype, str) or dtype not in VIEWS:
        raise CheckpointError(
            f"{where}: has type {dtype}; only {', '.join(VIEWS)} are read, use the bf16 checkpoint"
        )
    if math.prod(shape) * VIEWS[dtype].itemsize != last - first:
        raise CheckpointError(
            f"{where}: {dtype} {list(shape)} does not fit its {last - first:,} bytes; "
            "download it again"
        )
    return Stored(shard, dtype, shape, start + first, last - first)
