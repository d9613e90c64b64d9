"""Adds a file to a finished engine, or replaces one that was added."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from trtcoder.bundle.durable import replace_file
from trtcoder.bundle.folder import Bundle, describe_files
from trtcoder.bundle.lock import FileLock
from trtcoder.bundle.manifest import FILE_NAME, Manifest
from trtcoder.errors import EngineError
from trtcoder.refusals import explain


def attach(folder: Path, name: str, text: str) -> Manifest:
    """Write a file into an engine folder and its hash into the manifest, which is returned.

    The engine matches its manifest at every moment, whenever this is killed: a file of that name is
    taken off the list before it is replaced, and put on it when it is whole.

    Raises:
        EngineError: the folder is no engine, cannot be written to, or is being written.
    """
    bundle = Bundle.load(folder, verify_hashes=False)
    manifest = bundle.manifest
    target = Path(os.path.realpath(folder))
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        if not lock.acquire():
            raise EngineError(f"{folder}: a build is writing it; try again when that has ended")
        try:
            others = {key: info for key, info in manifest.files.items() if key != name}
            if name in manifest.files:
                _list(target, dataclasses.replace(manifest, files=others))
            replace_file(target / name, text)
            added = describe_files(target, [name])
            complete = dataclasses.replace(manifest, files={**others, **added})
            _list(target, complete)
            return complete
        finally:
            lock.release()
    except OSError as error:
        raise EngineError(f"{explain(error, folder)}: {name} was not added") from error


def _list(target: Path, manifest: Manifest) -> None:
    replace_file(target / FILE_NAME, manifest.to_json())
