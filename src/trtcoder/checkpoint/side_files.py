"""The small files beside the weights: JSON and text, read with errors that name the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtcoder.errors import CheckpointError
from trtcoder.refusals import reason

_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise CheckpointError if a file that begins with ``start`` is a pointer of git-LFS."""
    if start.startswith(_POINTER):
        raise CheckpointError(
            f"{path}: is a pointer of git-LFS and not the file itself; run `git lfs pull` in "
            f"{path.parent}, or download it with `hf download`"
        )


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file that the system does not let be read."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: is missing; download it again")
    if isinstance(error, PermissionError):
        return CheckpointError(f"{path}: may not be read; change its permissions or its owner")
    if isinstance(error, IsADirectoryError):
        return CheckpointError(f"{path}: is a folder, expected a file; download it again")
    return CheckpointError(f"{path}: cannot be read ({reason(error)})")


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        CheckpointError: it cannot be read, or is a pointer of git-LFS.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    refuse_pointer(path, data)
    return data


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        CheckpointError: as `read_bytes`; or it is not UTF-8.
    """
    data = read_bytes(path)
    try:
        # As text mode reads it: \r\n is one line end.
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path}: is not UTF-8 at byte {error.start}; download it again"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        CheckpointError: as `read_text`; or it is not JSON, or no object.
    """
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}; download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no JSON object; download it again")
    return found
