"""Weights in several files: a sink that hands each part to the file of its weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trtcoder.export.weights.data_file import DataFile, Placed, open_file
from trtcoder.export.weights.plan import Part, Rows, Step


class DataFiles:
    """A sink of several files (see `trtcoder.export.weights.sink.Sink`)."""

    def __init__(self, files: Mapping[str, DataFile], file_of: Mapping[str, str]) -> None:
        self._files = files
        self._file_of = file_of

    def write(self, step: Step, part: Part) -> int:
        """Write a part of a weight to its file; return its bytes."""
        return self._file(part.weight).write(step, part)

    def digest(self, rows: Rows) -> str:
        """Return the BLAKE3 hash of rows as they are in their file."""
        return self._file(rows.weight).digest(rows)

    def sync(self) -> None:
        """Wait until everything that was written is on the disk."""
        for file in self._files.values():
            file.sync()

    def add_filled(self, rows: Mapping[str, int]) -> None:
        """Let rows that will not change be hashed."""
        by_file: dict[str, dict[str, int]] = defaultdict(dict)
        for name, count in rows.items():
            by_file[self._file_of[name]][name] = count
        for file, filled in by_file.items():
            self._files[file].add_filled(filled)

    def finish(self) -> dict[str, str]:
        """Return each file's sha256 by its name, once every weight is filled."""
        return {name: sha for file in self._files.values() for name, sha in file.finish().items()}

    def _file(self, weight: str) -> DataFile:
        return self._files[self._file_of[weight]]


@contextmanager
def open_data_files(placed: Mapping[str, Placed], folder: Path) -> Iterator[DataFiles]:
    """Open files of weights for writing, by name; what is in them stays.

    Raises:
        BuildError: the disk has no room for them.
    """
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(open_file(each, folder / name))
            for name, each in placed.items()
        }
        yield DataFiles(
            opened, {weight: name for name, each in placed.items() for weight in each.weights}
        )
