"""The engine folder: the only thing that passes between building and serving.

`BundleWriter` fills a hidden folder beside the target and renames it, so a target either is a
complete engine or does not exist. `Bundle.load` refuses a folder that does not match its manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from trtcoder.errors import BuildError, EngineError
from trtcoder.manifest import (
    FILE_NAME,
    FORMAT,
    CacheInfo,
    Capabilities,
    ChatFormat,
    FileInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    Requires,
    SourceInfo,
    Tokens,
)

__all__ = [
    "FILE_NAME",
    "FORMAT",
    "Bundle",
    "BundleWriter",
    "CacheInfo",
    "Capabilities",
    "ChatFormat",
    "FileInfo",
    "GraphInfo",
    "Manifest",
    "ModelInfo",
    "Requires",
    "SourceInfo",
    "Tokens",
    "describe_files",
    "file_sha256",
]

_READ_BYTES = 1 << 22


def file_sha256(path: Path) -> str:
    """Return a file's sha256 in hex."""
    digest = hashlib.sha256()
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    # Plain reads into one buffer: memory-mapping was slower (page faults), and this way the
    # pages of a large file do not count as this process's memory.
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def describe_files(
    folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None
) -> dict[str, FileInfo]:
    """Return size and hash of each named file, hashing those in parallel that are not ``known``."""
    ordered = sorted(names)
    digested = known or {}

    def digest(name: str) -> str:
        return digested[name] if name in digested else file_sha256(folder / name)

    with ThreadPoolExecutor() as pool:
        digests = pool.map(digest, ordered)
        return {
            name: FileInfo(digest, (folder / name).stat().st_size)
            for name, digest in zip(ordered, digests, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Bundle:
    """An engine folder that matches its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: str | Path, *, verify_hashes: bool = True) -> Bundle:
        """Read an engine folder.

        Args:
            folder: the engine folder.
            verify_hashes: compare every file's sha256 too, about a second for 2 GB. Presence
                and size are always compared.

        Raises:
            EngineError: not an engine folder, another format revision, or a file that is
                missing, truncated or changed.
        """
        folder = Path(folder)
        path = folder / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise EngineError(
                f"{folder}: not an engine folder (no {FILE_NAME}); "
                "make one with `trtcoder build CHECKPOINT --out FOLDER`"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(f"{path}: cannot be read ({error})") from error
        bundle = cls(folder, Manifest.from_json(text, str(path)))
        bundle._check_sizes()
        if verify_hashes:
            bundle.verify_hashes()
        return bundle

    def path(self, name: str) -> Path:
        """Return the path of one of the manifest's files.

        Raises:
            EngineError: the manifest lists no such file.
        """
        if name not in self.manifest.files:
            raise EngineError(f"{self.folder / FILE_NAME}: lists no {name}; build the engine again")
        return self.folder / name

    @property
    def graph_path(self) -> Path:
        """The graph's file."""
        return self.path(self.manifest.graph.file)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        return self.path("tokenizer.json")

    def verify_hashes(self) -> None:
        """Compare every file with its sha256.

        Raises:
            EngineError: a file has changed; names all that have.
        """
        try:
            found = describe_files(self.folder, self.manifest.files)
        except OSError as error:
            raise EngineError(f"{self.folder}: cannot be read ({error})") from error
        self._refuse(
            f"{name} has sha256 {info.sha256[:12]}…, expected {found_in.sha256[:12]}…"
            for name, info in found.items()
            if info != (found_in := self.manifest.files[name])
        )

    def _check_sizes(self) -> None:
        problems = []
        for name, info in sorted(self.manifest.files.items()):
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif path.stat().st_size != info.bytes:
                problems.append(f"{name} has {path.stat().st_size} bytes, expected {info.bytes}")
        self._refuse(problems)

    def _refuse(self, problems: Iterable[str]) -> None:
        listed = list(problems)
        if listed:
            raise EngineError(
                f"{self.folder}: does not match its manifest: {'; '.join(listed)}; "
                "copy the folder again or build it again"
            )


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
