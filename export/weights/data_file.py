"""The file that holds an engine's weights: where each lies, and how it is written.

Offsets follow from the declared shapes alone, so parts can be written in any order.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trtcoder.checkpoint.shard import blake3
from trtcoder.errors import BuildError
from trtcoder.export.weights.hash_follower import HashFollower
from trtcoder.export.weights.plan import Part, Rows, Step, Weight, WeightPlan

# A page: memory-mapping a weight then needs no copy, whatever its kernel's vector width.
ALIGNMENT = 4096
_READ_BYTES = 1 << 20


def layout(weights: Iterable[Weight]) -> tuple[dict[str, int], int]:
    """Return each weight's byte offset in the data file, and the file's size."""
    offsets: dict[str, int] = {}
    end = 0
    for weight in weights:
        offsets[weight.name] = end
        end += -(-weight.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


@dataclass(frozen=True, slots=True)
class Placed:
    """What a file holds, and where: planned before anything is written.

    Attributes:
        weights: by name, in the file's order.
        offsets: of each weight, in bytes.
        size: of the file.
        head: what stands before the first weight.
    """

    weights: Mapping[str, Weight]
    offsets: Mapping[str, int]
    size: int
    head: bytes = b""

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Return offset and length of what lies between the weights and behind them."""
        end = len(self.head)
        for name, weight in self.weights.items():
            yield end, self.offsets[name] - end
            end = self.offsets[name] + weight.nbytes
        yield end, self.size - end


class DataFile:
    """A sink: one file, hashed while it is written from several threads; see `open_file`."""

    def __init__(self, placed: Placed, path: Path, descriptor: int) -> None:
        self.offsets, self.size = placed.offsets, placed.size
        self._placed = placed
        self._weights = placed.weights
        self._path = path
        self._descriptor = descriptor
        self._follower = HashFollower(
            [
                (name, weight.shape[0], self.offsets[name])
                for name, weight in placed.weights.items()
            ],
            self.size,
            self.read_into,
        )

    def write(self, step: Step, part: Part) -> int:
        """Write a part of a weight; return its bytes."""
        weight = self._weights[part.weight]
        value = np.ascontiguousarray(part.value)
        if (
            value.shape[1:] != weight.shape[1:]
            or value.dtype != weight.dtype.numpy
            or part.start + len(value) > weight.shape[0]
        ):
            raise BuildError(
                f"{part.weight}: {step.key} made {value.dtype} {list(value.shape)} at row "
                f"{part.start}, declared {weight.dtype.numpy} {list(weight.shape)}"
            )
        data = value.reshape(-1).view(np.uint8).data
        offset = self.offsets[part.weight] + part.start * weight.row_nbytes
        try:
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise self._failed(error) from error
        return value.nbytes

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with the file's bytes at ``offset``."""
        done = 0
        while done < len(target):
            count = os.preadv(self._descriptor, [target[done:]], offset + done)
            if not count:
                raise BuildError(f"{self._path}: became shorter while it was written")
            done += count

    def digest(self, rows: Rows) -> str:
        """Return the BLAKE3 hash of rows as they are in the file."""
        weight, digest = self._weights[rows.weight], blake3()
        start = self.offsets[rows.weight] + rows.start * weight.row_nbytes
        left = (rows.stop - rows.start) * weight.row_nbytes
        buffer = memoryview(bytearray(min(_READ_BYTES, left)))
        while left:
            part = buffer[: min(_READ_BYTES, left)]
            self.read_into(part, start)
            digest.update(part)
            start, left = start + len(part), left - len(part)
        return str(digest.hexdigest())

    def sync(self) -> None:
        """Wait until everything that was written is on the disk."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error

    def add_filled(self, rows: Mapping[str, int]) -> None:
        """Let rows that will not change be hashed."""
        self._follower.add(rows)

    def finish(self) -> dict[str, str]:
        """Return the file's sha256 by its name, once every weight is filled."""
        return {self._path.name: self._follower.finish()}

    def stop(self) -> None:
        """Give hashing up, if the file will not be whole."""
        self._follower.stop()

    def reserve(self) -> None:
        """Give the file its size; refuse where the disk has no room for it."""
        status = os.fstat(self._descriptor)
        missing = self.size - status.st_blocks * 512
        free = shutil.disk_usage(self._path.parent).free
        if missing > free:
            raise BuildError(
                f"{self._path}: needs {missing:,} more bytes and the disk has {free:,}; free some "
                "space, or give --out another disk, and run the same command again"
            )
        os.ftruncate(self._descriptor, self.size)
        try:
            os.pwrite(self._descriptor, self._placed.head, 0)
            if status.st_size:
                # A new file has zeros there by itself.
                for offset, length in self._placed.gaps():
                    os.pwrite(self._descriptor, bytes(length), offset)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BuildError:
        problem = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
        return BuildError(
            f"{self._path}: cannot be written: {problem}; it needs {self.size:,} bytes in all. "
            "Put that right and run the same command again: it goes on where it stopped"
        )


def open_data(plan: WeightPlan, path: Path) -> AbstractContextManager[DataFile]:
    """Open the data file of a plan's weights for writing; what is in it stays.

    Raises:
        BuildError: the disk has no room for it.
    """
    return open_file(Placed(plan.declared, *layout(plan.declared.values())), path)


@contextmanager
def open_file(placed: Placed, path: Path) -> Iterator[DataFile]:
    """Open a file of weights for writing; what is in it stays.

    Raises:
        BuildError: the disk has no room for it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BuildError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        output = DataFile(placed, path, descriptor)
        try:
            output.reserve()
            yield output
            output.sync()
        finally:
            output.stop()
    finally:
        os.close(descriptor)
