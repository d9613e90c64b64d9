"""The engine folder: the only thing that passes between building and serving.

`Bundle.load` refuses a folder that does not match its manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.manifest import FILE_NAME, FileInfo, Manifest
from trtcoder.cores import available_cores
from trtcoder.errors import EngineError
from trtcoder.refusals import reason

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

    with ThreadPoolExecutor(available_cores()) as pool:
        digests = pool.map(digest, ordered)
        return {
            name: FileInfo(digest, (folder / name).stat().st_size)
            for name, digest in zip(ordered, digests, strict=True)
        }


def unlisted_files(folder: Path) -> list[str]:
    """Return the names of files in an engine folder that its manifest does not list, sorted.

    Without a manifest that can be read, nothing tells which are its own: none is returned.
    """
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
        listed = {FILE_NAME, *Manifest.from_json(text).files}
    except (OSError, UnicodeError, EngineError):
        return []
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(folder).as_posix() for path in found} - listed)


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
                f"{folder}: not an engine folder (no {FILE_NAME}); {_remedy(folder)}"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(f"{path}: cannot be read ({reason(error)})") from error
        bundle = cls(folder, Manifest.from_json(text, str(path)))
        bundle._check_sizes()
        if verify_hashes:
            bundle.verify_hashes()
        return bundle

    def fingerprint(self) -> str:
        """Return the sha256 of the manifest, which holds those of all other files, in hex."""
        return file_sha256(self.folder / FILE_NAME)

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
            raise EngineError(f"{self.folder}: cannot be read ({reason(error)})") from error
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


def _remedy(folder: Path) -> str:
    """Return what to do with a folder that is no engine: in a hub's cache its snapshots may be."""
    try:
        snapshots = sorted(path.parent for path in folder.glob(f"snapshots/*/{FILE_NAME}"))
    except OSError:
        snapshots = []
    if snapshots:
        return f"it is a hub's cache of one; give its snapshot {snapshots[-1]}"
    return "make one with `trtcoder build CHECKPOINT --out FOLDER`"
