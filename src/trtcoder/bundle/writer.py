"""Writes an engine folder beside its target and renames it, so that it is complete or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from trtcoder.bundle.durable import replace_file, sync_folder, sync_tree
from trtcoder.bundle.folder import describe_files
from trtcoder.bundle.lock import FileLock
from trtcoder.bundle.manifest import FILE_NAME, Manifest
from trtcoder.errors import BuildError, TrtcoderError
from trtcoder.room import existing_parent

# Files of the workspace from which a later build goes on; each is true as soon as it is there.
_NOTES = (".json", ".jsonl")


class BundleWriter:
    """Writes an engine folder so that it appears complete or not at all.

    Use as a context manager: fill ``folder``, then call `commit`. A lock beside the target lets one
    writer in at a time; it ends with the process that holds it.

    All else is in the *workspace*, a hidden folder beside the target. It stays when it holds notes
    (``journal``, or any file of JSON beside it), so that a build which was interrupted or killed
    goes on where it stopped; without notes, leaving without a commit removes it.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        force: bool = False,
        say: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Prepare to write ``target``.

        ``force`` lets it replace an engine folder; ``say`` is told what is left when it fails.

        Raises:
            BuildError: the target is no name for a folder.
        """
        self.target = Path(os.path.abspath(target))
        name, parent = self.target.name, self.target.parent
        if not name:
            raise BuildError(f"{self.target}: is no name for an engine's folder")
        self.force = force
        self.workspace = parent / f".{name}.partial"
        self.folder = self.workspace / "engine"
        self.journal = self.workspace / "journal.jsonl"
        self._replaced = parent / f".{name}.old"
        self._lock = FileLock(parent / f".{name}.lock")
        self._say = say

    def __enter__(self) -> Self:
        """Take the lock and clean up after a writer that was killed.

        Raises:
            BuildError: another process is writing the target, or it exists and may not be replaced,
                or the system refuses to make it.
        """
        with self._system_errors():
            self._make_parents()
            if not self._lock.acquire():
                raise BuildError(f"{self.target}: another build is already writing it")
            try:
                self._recover()
                self._check_target()
                self.workspace.mkdir(exist_ok=True)
                if not (self.journal.is_file() and self.folder.is_dir()):
                    self.clear()
                if not self._notes():
                    self._empty_workspace()
                self.folder.mkdir(exist_ok=True)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self.workspace.exists() and not self._notes():
                self.discard()
            if error is not None:
                self._tell(error)
        finally:
            self._lock.release()

    def check(self) -> None:
        """Look whether the target can be written, before anything is done for it.

        Raises:
            BuildError: it exists and may not be replaced, or the system refuses to make it.
        """
        with self._system_errors():
            parent = existing_parent(self.target)
            if not parent.is_dir():
                raise BuildError(
                    f"{self.target}: {parent} is a file, where a folder is needed; choose another "
                    "name with --out"
                )
            if os.path.lexists(self.target) or not os.path.lexists(self._replaced):
                self._check_target()
            for path in (self.workspace, self._replaced):
                with contextlib.suppress(FileNotFoundError):
                    os.lstat(path)  # refused where the name is too long
            with tempfile.TemporaryFile(dir=parent):
                pass

    @property
    def workspace_bytes(self) -> int:
        """What an unfinished build has taken of the disk so far."""
        return _disk_bytes(self.workspace)

    def clear(self, *kept: str) -> None:
        """Empty the folder but for the files that are named; without names, forget the journal."""
        if not kept:
            self.journal.unlink(missing_ok=True)
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in kept:
                _remove(path)

    def discard(self) -> None:
        """Remove what was written."""
        for path in self._notes():  # first what says that the rest can be used
            path.unlink(missing_ok=True)
        shutil.rmtree(self.workspace, ignore_errors=True)

    def leave_report(self, name: str, text: str) -> Path:
        """Write ``text`` beside the target as TARGET.NAME; return the file.

        Without ``force`` nothing is written over: a number makes the name a free one.
        """
        stem, suffix = os.path.splitext(f"{self.target.name}.{name}")
        path = self.target.with_name(f"{stem}{suffix}")
        number = 1
        with self._system_errors():
            while os.path.lexists(path) and not (self.force and path.is_file()):
                number += 1
                path = self.target.with_name(f"{stem}.{number}{suffix}")
            replace_file(path, text)
        return path

    def commit(self, manifest: Manifest, known: Mapping[str, str] | None = None) -> Manifest:
        """Complete the manifest with every file in ``folder``, write it and move the folder.

        All of it is on the disk before the folder gets its name, and the name before the journal
        goes, so that a power cut leaves the engine or a build that goes on. ``known`` has the
        sha256 of files that were hashed while they were written. Returns the manifest as written;
        ``manifest.files`` is replaced.

        Raises:
            BuildError: the target appeared meanwhile and may not be replaced, or the disk is full.
            EngineError: the manifest contradicts itself.
        """
        with self._system_errors():
            names = [
                path.relative_to(self.folder).as_posix()
                for path in self.folder.rglob("*")
                if path.is_file() and path != self.folder / FILE_NAME
            ]
            files = describe_files(self.folder, names, known)
            manifest = dataclasses.replace(manifest, files=files)
            manifest.check()
            (self.folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
            sync_tree(self.folder)
            self._check_target()
            self._move()
            self.discard()
        return manifest

    def _move(self) -> None:
        replaces = self.target.exists()
        if replaces:
            os.rename(self.target, self._replaced)
        try:
            os.rename(self.folder, self.target)
        except BaseException:
            if replaces:
                os.rename(self._replaced, self.target)
            raise
        sync_folder(self.target.parent)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _make_parents(self) -> None:
        parents = self.target.parent, *self.target.parent.parents
        missing = [parent for parent in parents if not parent.exists()]
        self.target.parent.mkdir(parents=True, exist_ok=True)
        for parent in missing:
            sync_folder(parent.parent)

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self.force:
            raise BuildError(f"{self.target}: exists; pass --force to replace it")
        if self.target.is_symlink() or not self.target.is_dir():
            raise BuildError(f"{self.target}: exists and is not a folder; choose another name")
        if not (self.target / FILE_NAME).is_file() and any(self.target.iterdir()):
            raise BuildError(
                f"{self.target}: exists and is not an engine folder, so --force does not "
                "replace it; remove it yourself or choose another name"
            )

    def _recover(self) -> None:
        """Clean up after a writer that was killed while it replaced an engine."""
        if not os.path.lexists(self._replaced):
            return
        if not os.path.lexists(self.target):
            # Between the two renames: the engine that was to be replaced is still the newest one.
            os.rename(self._replaced, self.target)
        elif (self.target / FILE_NAME).is_file():
            shutil.rmtree(self._replaced)
        else:
            raise BuildError(
                f"{self.target}: is not an engine folder, and {self._replaced} is the engine that "
                "an interrupted build was to replace; move one of the two away"
            )

    def _notes(self) -> list[Path]:
        if not self.workspace.is_dir():
            return []
        return [path for path in self.workspace.iterdir() if path.suffix in _NOTES]

    def _empty_workspace(self) -> None:
        for path in self.workspace.iterdir():
            _remove(path)

    def _tell(self, error: BaseException) -> None:
        """Say what is left, where, and what it is good for."""
        if not self.workspace.exists():
            if not isinstance(error, Exception):
                self._say("interrupted before anything was finished; nothing is left")
            return
        size = _disk_bytes(self.workspace)
        left = f"{self.workspace} keeps {size / 1e6:,.1f} MB of the unfinished build"
        if not self._notes():
            self._say(f"{left}, which cannot be removed; remove it yourself")
            return
        when = " when that is put right" if isinstance(error, TrtcoderError) else ""
        self._say(f"{left}: the same command goes on from there{when}; remove it to give it up")

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.target
            raise BuildError(
                f"{where}: {error.strerror or error}; make room or set its permissions right, or "
                "choose another name with --out"
            ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _disk_bytes(folder: Path) -> int:
    """Return what the files below a folder take of the disk; holes take nothing."""
    return sum(
        os.lstat(os.path.join(path, name)).st_blocks * 512
        for path, _, names in os.walk(folder)
        for name in names
    )
