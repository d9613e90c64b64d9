"""One safetensors file, checked.

The format: eight bytes of header length (little-endian), a JSON header that gives each tensor's
type, shape and byte range, and the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import mmap
import os
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.side_files import refuse_pointer, unreadable
from trtcoder.errors import CheckpointError, DependencyError

# Stored type -> the NumPy type of its view. NumPy has neither bfloat16 nor float8: their bits are
# seen as unsigned integers.
VIEWS: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F8_E4M3": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
# What a model to build from is stored in; the others are those of quantized checkpoints.
SOURCE_TYPES = ("BF16", "F16", "F32")
MAX_HEADER = 100_000_000
# A buffer of this size stays in the second-level cache while it is hashed.
_HASH_BYTES = 1 << 20

Rows = slice | NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Shard:
    """An open file."""

    path: Path
    descriptor: int

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with the file's bytes at ``offset``.

        Raises:
            CheckpointError: the file cannot be read, or became shorter. (Reading a mapping beyond
                the end of a file kills the process instead.)
        """
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self.descriptor, [target[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: cannot be read at byte {offset + done:,}: {error.strerror}; "
                    "check the disk, or download it again"
                ) from error
            if not count:
                raise CheckpointError(
                    f"{self.path}: became shorter while it was read: it ends before byte "
                    f"{offset + len(target):,}; download it again"
                )
            done += count


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor is: ``nbytes`` bytes at ``offset`` of its shard.

    A tensor without a shard is only known by its shape, and cannot be read.
    """

    shard: Shard | None
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def file(self) -> Shard:
        """The shard.

        Raises:
            CheckpointError: there is none.
        """
        if self.shard is None:
            raise CheckpointError("the weights are not there: only the configuration was opened")
        return self.shard

    def read(self, rows: Rows = None) -> NDArray[np.generic]:
        """Return a copy of the tensor, or of rows of it in the given order, as stored.

        Raises:
            CheckpointError: the file cannot be read.
        """
        if rows is None:
            rows = slice(0, self.shape[0] if self.shape else 1)
        leading = self.shape[0] if self.shape else 1
        row_bytes = self.nbytes // leading if leading else 0
        count = len(range(*rows.indices(leading))) if isinstance(rows, slice) else len(rows)
        found = np.empty((count, *self.shape[1:]), VIEWS[self.dtype])
        target = memoryview(found.reshape(-1).view(np.uint8).data)
        for first, place, length in _runs(rows, leading):
            part = target[place * row_bytes : (place + length) * row_bytes]
            self.file.read_into(part, self.offset + first * row_bytes)
        return found.reshape(self.shape) if not self.shape else found

    def digest(self) -> str:
        """Return the BLAKE3 hash of the tensor's bytes."""
        digest = blake3()
        buffer = memoryview(bytearray(min(_HASH_BYTES, self.nbytes)))
        for start in range(0, self.nbytes, _HASH_BYTES):
            part = buffer[: min(_HASH_BYTES, self.nbytes - start)]
            self.file.read_into(part, self.offset + start)
            digest.update(part)
        return str(digest.hexdigest())

    def prefetch(self) -> None:
        """Ask the system to read the tensor ahead of its use."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.descriptor, self.offset, self.nbytes, os.POSIX_FADV_WILLNEED)


def read_shard(path: Path, types: Collection[str] = SOURCE_TYPES) -> dict[str, Stored]:
    """Map a file and return its tensors, whose stored types must be among ``types``.

    Raises:
        CheckpointError: the file is missing, truncated, or not safetensors; or a tensor has a
            type that trtcoder does not read, or a range that does not fit.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is empty; download it again") from error
    shard = Shard(path, descriptor)
    weakref.finalize(shard, os.close, descriptor)
    header, start = _header(path, mapped)
    header.pop("__metadata__", None)
    found = {name: _stored(shard, name, entry, start, types) for name, entry in header.items()}
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
    refuse_pointer(path, mapped[:64])
    length = int.from_bytes(mapped[:8], "little")
    if len(mapped) < 8 or length > min(MAX_HEADER, len(mapped) - 8):
        raise CheckpointError(
            f"{path}: is truncated or not a safetensors file: its header would have "
            f"{length:,} bytes of {len(mapped):,}; download it again"
        )
    try:
        header = json.loads(mapped[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its header is not JSON: {error}; download it again"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not an object; download it again")
    return header, 8 + length


def _stored(shard: Shard, name: str, entry: Any, start: int, types: Collection[str]) -> Stored:
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
    if not isinstance(dtype, str) or dtype not in types:
        raise CheckpointError(
            f"{where}: has type {dtype}; only {', '.join(types)} are read, use the bf16 checkpoint"
        )
    if math.prod(shape) * VIEWS[dtype].itemsize != last - first:
        raise CheckpointError(
            f"{where}: {dtype} {list(shape)} does not fit its {last - first:,} bytes; "
            "download it again"
        )
    return Stored(shard, dtype, shape, start + first, last - first)


def _runs(rows: slice | NDArray[np.int64], leading: int) -> Iterator[tuple[int, int, int]]:
    """Return (first row, place in the result, length) of each run of consecutive rows."""
    if isinstance(rows, slice):
        indices = range(*rows.indices(leading))
        if indices.step == 1:
            yield indices.start, 0, len(indices)
            return
        rows = np.array(indices, np.int64)
    if not len(rows):
        return
    starts = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]])
    for place, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield int(rows[place]), place, stop - place


def blake3() -> Any:
    """Return a new BLAKE3 hash, which is four times as fast as sha256.

    Raises:
        DependencyError: the package is not installed.
    """
    try:
        from blake3 import blake3 as new
    except ImportError as error:
        raise DependencyError(
            "blake3 is not installed; install it with `pip install 'trtcoder[build]'`"
        ) from error
    return new()
