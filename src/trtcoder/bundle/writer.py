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
from trtcoder.bundle.folder import describe_files, unlisted_files
from trtcoder.bundle.lock import FileLock
from trtcoder.bundle.manifest import FILE_NAME, Manifest
from trtcoder.bundle.workspace import Workspace
from trtcoder.errors import BuildError
from trtcoder.refusals import explain
from trtcoder.room import existing_parent


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
        self._work = Workspace(parent / f".{name}.partial")
        self.workspace, self.folder = self._work.path, self._work.folder
        self.journal = self._work.journal
        self._replaced = parent / f".{name}.replaced"
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
                self._work.open()
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
            if not self._work.has_notes:
                self.discard()
            left = None if error is None else self._work.left(error)
            if left is not None:
                self._say(left)
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
        return self._work.nbytes

    def clear(self, *kept: str) -> None:
        """Empty the folder but for the files that are named; without names, forget the journal."""
        self._work.clear(*kept)

    def discard(self) -> None:
        """Remove what was written."""
        self._work.discard()

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
        if others := unlisted_files(self.target):
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise BuildError(
                f"{self.target}: {others[0]}{more} is not of the engine, and --force would remove "
                "it; move it away or choose another name"
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

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = self.target if error.filename is None else None
            raise BuildError(explain(error, place)) from error
