"""Writes an engine folder beside its target and renames it, so that it is whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from trtcoder.bundle.folder import describe_files
from trtcoder.bundle.manifest import FILE_NAME, Manifest
from trtcoder.errors import BuildError


class BundleWriter:
    """Writes an engine folder so that it appears whole or not at all.

    Use as a context manager: fill ``folder``, then call `commit`. What was written stays in a
    hidden folder beside the target if there is a file at ``journal``, so that a writer which was
    interrupted or killed goes on where it stopped; without one, leaving without a commit removes
    it.
    """

    def __init__(self, target: str | Path, *, force: bool = False) -> None:
        """Prepare to write ``target``; ``force`` lets it replace an engine folder.

        Raises:
            BuildError: the target exists and may not be replaced.
        """
        self.target = Path(os.path.abspath(target))
        self.force = force
        self.workspace = self.target.parent / f".{self.target.name}.partial"
        self.folder = self.workspace / "engine"
        self.journal = self.workspace / "journal.jsonl"
        self._lock: int | None = None
        self._recover()
        self._check_target()

    def __enter__(self) -> Self:
        self.workspace.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.workspace / "lock")
        if self._lock is None:
            raise BuildError(f"{self.target}: another build is already writing it")
        if not (self.journal.is_file() and self.folder.is_dir()):
            self.journal.unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.journal.is_file():
            self.discard()
        if self._lock is not None:
            os.close(self._lock)

    def discard(self) -> None:
        """Remove what was written."""
        # First what says that the rest can be used.
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.workspace, ignore_errors=True)

    def commit(self, manifest: Manifest, known: Mapping[str, str] | None = None) -> Manifest:
        """Complete the manifest with every file in ``folder``, write it and move the folder.

        ``known`` has the sha256 of files that were hashed while they were written. Returns the
        manifest as written; ``manifest.files`` is replaced.

        Raises:
            BuildError: the target appeared meanwhile and may not be replaced.
            EngineError: the manifest contradicts itself.
        """
        names = [
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and path != self.folder / FILE_NAME
        ]
        manifest = dataclasses.replace(manifest, files=describe_files(self.folder, names, known))
        manifest.check()
        with (self.folder / FILE_NAME).open("w", encoding="utf-8", newline="\n") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        self._check_target()
        self._move()
        self.discard()
        return manifest

    def _move(self) -> None:
        old = self.target.parent / f".{self.target.name}.old-{os.getpid()}"
        if self.target.exists():
            os.rename(self.target, old)
        try:
            os.rename(self.folder, self.target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rename(old, self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _check_target(self) -> None:
        if not self.target.exists() and not self.target.is_symlink():
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
        """Clean up after a writer that was killed between its two renames."""
        pattern = re.compile(re.escape(f".{self.target.name}.") + r"old-(\d+)")
        if not self.target.parent.is_dir():
            return
        for path in sorted(self.target.parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if match is None or _is_alive(int(match[1])):
                continue
            if self.target.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                # The engine that was to be replaced is still the newest whole one.
                os.rename(path, self.target)


def _locked(path: Path) -> int | None:
    """Return the descriptor of a file that this process has locked, or None if another has.

    The lock ends with the process, however that ends.
    """
    import fcntl  # not on Windows, where engines can be run but not built

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
