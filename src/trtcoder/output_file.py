"""A file that a command will write: looked at before the work, written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trtcoder.bundle.durable import replace_file
from trtcoder.bundle.manifest import FILE_NAME
from trtcoder.errors import RequestError
from trtcoder.refusals import reason


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that may be written."""

    path: Path
    option: str

    @classmethod
    def check(
        cls, path: Path, option: str, *, force: bool = False, inputs: Sequence[Path | None] = ()
    ) -> Self:
        """Return ``path`` as a file that can and may be written now.

        A link is followed: what it leads to is what would be lost.

        Args:
            path: the file.
            option: the option that names it, for errors.
            force: whether a file that is there may be replaced.
            inputs: files and folders that the command reads; nothing of them is replaced.

        Raises:
            RequestError: it exists, or belongs to an engine or to what is read, or its folder is
                missing or cannot be written to.
        """
        other = f"give another file with {option}"
        try:
            if os.path.isdir(path):
                raise RequestError(f"{path}: is a folder; give a file with {option}")
            found = cls(path, option)
            target = found._target
            if _is_device(target):
                return found
            engine = owning_engine(path) or owning_engine(target)
            if engine is not None:
                raise RequestError(
                    f"{path}: belongs to the engine {engine}, which would not load without it; "
                    f"{other}"
                )
            if os.path.lexists(path):
                if not force:
                    raise RequestError(f"{path}: exists; pass --force to replace it, or {other}")
                for source in filter(None, inputs):
                    if _is_part_of(path, source):
                        raise RequestError(f"{path}: is read by this command; {other}")
            if not target.parent.is_dir():
                raise RequestError(
                    f"{path}: cannot be written, there is no folder {target.parent}; make it, "
                    f"or {other}"
                )
            _try_to_write(target)
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: cannot be written ({reason(error)}); {other}") from error
        return found

    def write(self, text: str) -> None:
        """Write the file so that it holds all of ``text``, or what it held before.

        Raises:
            RequestError: the system refuses.
        """
        target = self._target
        try:
            if _is_device(target):
                target.write_text(text, encoding="utf-8")
            else:
                replace_file(target, text)
        except OSError as error:
            raise RequestError(
                f"{self.path}: cannot be written ({reason(error)}); give another file with "
                f"{self.option}"
            ) from error

    @property
    def _target(self) -> Path:
        return Path(os.path.realpath(self.path))


def owning_engine(path: Path) -> Path | None:
    """Return the engine folder whose manifest lists ``path``; None where there is none."""
    absolute = Path(os.path.abspath(path))
    for folder in absolute.parents:
        name = absolute.relative_to(folder).as_posix()
        listed = _listed(folder / FILE_NAME)
        if listed is not None and (name == FILE_NAME or name in listed):
            return folder
    return None


def _listed(manifest: Path) -> set[str] | None:
    """Return the files that a manifest lists; None where it is none of an engine.

    Read without the rules of a format: a damaged engine keeps its files too.
    """
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    files = data.get("files") if isinstance(data, dict) and "trtcoder" in data else None
    return set(files) if isinstance(files, dict) else None


def _is_part_of(path: Path, source: Path) -> bool:
    """Return whether ``path`` is ``source`` or, by whatever name, a file in that folder."""
    if not os.path.exists(path):
        return False
    files = source.iterdir() if source.is_dir() else (source,)
    return any(os.path.exists(each) and os.path.samefile(path, each) for each in files)


def _is_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _try_to_write(target: Path) -> None:
    """Make a nameless file beside the target, which tells more than permissions do."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target.with_name(f".{target.name}.new"))  # refused where it is too long
    with tempfile.TemporaryFile(dir=target.parent):
        pass
