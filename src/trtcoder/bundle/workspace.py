"""The hidden folder in which an engine grows, and from which an interrupted build goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trtcoder.errors import ParityError, TrtcoderError

# Files from which a later build goes on; each is true as soon as it is there.
_NOTES = (".json", ".jsonl")


class Workspace:
    """A folder with *notes*, files of JSON, and with what they speak of.

    Attributes:
        path: the folder.
        folder: the engine's files.
        journal: the notes about the engine's data (see `trtcoder.export.weights.journal`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / "engine"
        self.journal = path / "journal.jsonl"

    @property
    def nbytes(self) -> int:
        """What it takes of the disk; holes of files take nothing."""
        return sum(
            os.lstat(os.path.join(path, name)).st_blocks * 512
            for path, _, names in os.walk(self.path)
            for name in names
        )

    @property
    def has_notes(self) -> bool:
        """Whether a later build can go on from it."""
        return bool(self._notes())

    def open(self) -> None:
        """Make it, without what an earlier build left and no note speaks of."""
        self.path.mkdir(exist_ok=True)
        if not (self.journal.is_file() and self.folder.is_dir()):
            self.clear()
        if not self.has_notes:
            for path in self.path.iterdir():
                _remove(path)
        self.folder.mkdir(exist_ok=True)

    def clear(self, *kept: str) -> None:
        """Empty the engine's folder but for the files that are named.

        Without names, forget the journal and what else belongs to it.
        """
        if not kept:
            self.journal.unlink(missing_ok=True)
            for path in self.path.iterdir():
                if path.is_file() and path.suffix not in _NOTES:
                    path.unlink()
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in kept:
                _remove(path)

    def discard(self) -> None:
        """Remove it."""
        for path in self._notes():  # first what says that the rest can be used
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def left(self, error: BaseException) -> str | None:
        """Return what a build that ended with ``error`` leaves, and what it is good for.

        None where nothing is left and nothing needs to be said.
        """
        if not self.path.exists():
            if isinstance(error, Exception):
                return None
            return "interrupted before anything was finished; nothing is left"
        left = f"{self.path} keeps {self.nbytes / 1e6:,.1f} MB of the unfinished build"
        if not self.has_notes:
            return f"{left}, which cannot be removed; remove it yourself"
        repairable = isinstance(error, TrtcoderError | OSError) and not isinstance(
            error, ParityError
        )
        when = " when that is put right" if repairable else ""
        return f"{left}: the same command goes on from there{when}; remove it to give it up"

    def _notes(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return [path for path in self.path.iterdir() if path.suffix in _NOTES]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
