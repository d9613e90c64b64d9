"""Waits until files and their names are on the disk, where a power cut leaves them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# What file systems answer that cannot sync a folder.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync_tree(folder: Path) -> None:
    """Sync every file below ``folder``, then every folder, the inner ones first."""
    for path, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(path, name))
        sync_folder(Path(path))


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder: what was made, renamed and removed in it."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def replace_file(path: Path, text: str) -> None:
    """Write a file so that ``path`` holds all of ``text``, or what it held before."""
    partial = path.with_name(f".{path.name}.new")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
