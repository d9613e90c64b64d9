"""Prefixes that outlive their process: blocks of cache rows as files, found by their tokens.

A file holds the rows of one block and is named by a digest of everything that they depend on: the
engine, the salt, and all tokens up to the block's end. A file that is missing, cut short or changed
is not found, and its tokens are computed. What was not used for longest is removed first when the
folder is full.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from trtcoder.errors import RequestError

_DIGEST_BYTES = 20
_SUFFIX = ".rows"
# Blocks that wait to be written; more are forgotten rather than held in memory.
_WAITING = 4096


class PrefixStore:
    """The blocks of one engine in a folder. One thread reads and hands out; another one writes.

    Attributes:
        hits: blocks that were read.
    """

    def __init__(self, folder: Path, engine: str, max_bytes: int) -> None:
        """Open or make the store of an engine.

        Args:
            folder: for the stores of all engines.
            engine: names the engine, and what runs it: others have other rows.
            max_bytes: that the engine's files may take.

        Raises:
            RequestError: the folder cannot be written.
        """
        self._folder = folder / engine
        self._max_bytes = max_bytes
        self.hits = 0
        try:
            # Rows tell what was asked: nobody else may read them.
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sizes = _sizes(self._folder)
        except OSError as error:
            raise RequestError(
                f"prefix_store: {self._folder} cannot be used: {error.strerror}"
            ) from error
        self._bytes = sum(self._sizes.values())
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="trtcoder-prefixes")
        self._thread.daemon = True
        self._thread.start()

    def keys(self, salt: str, tokens: Sequence[int], block_size: int) -> Iterator[str]:
        """Yield the name of each whole block of ``tokens``."""
        digest = hashlib.blake2b(salt.encode() + b"\0", digest_size=_DIGEST_BYTES)
        for start in range(0, len(tokens) - block_size + 1, block_size):
            digest.update(np.array(tokens[start : start + block_size], "<i8").tobytes())
            yield digest.copy().hexdigest()

    def read(self, key: str) -> bytes | None:
        """Return a block's bytes; None where there is none that is sound."""
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            self._forget(key)
            return None
        body = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != _digest(body):
            self._forget(key)
            return None
        self.hits += 1
        return body

    def has(self, key: str) -> bool:
        """Return whether a block is there, or on its way."""
        with self._lock:
            return key in self._sizes

    def write(self, key: str, body: bytes) -> None:
        """Keep a block; returns at once."""
        with suppress(queue.Full):
            self._queue.put_nowait((key, body))

    def close(self) -> None:
        """Write what is waiting."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            key, body = item
            if self.has(key):
                continue
            partial = self._folder / f"{key}.{os.getpid()}.partial"
            try:
                with partial.open("wb") as file:
                    file.write(_digest(body) + body)
                os.replace(partial, self._path(key))
            except OSError:  # a full disk costs time later, and no request
                partial.unlink(missing_ok=True)
                continue
            with self._lock:
                self._sizes[key] = len(body) + _DIGEST_BYTES
                self._bytes += self._sizes[key]
            self._shrink()

    def _shrink(self) -> None:
        while True:
            with self._lock:
                if self._bytes <= self._max_bytes:
                    return
                oldest = next(iter(self._sizes))
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._bytes -= self._sizes.pop(key, 0)
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _sizes(folder: Path) -> OrderedDict[str, int]:
    """Return the sizes of the blocks that are there, those unused for longest first."""
    found = []
    for entry in os.scandir(folder):
        if entry.name.endswith(".partial"):
            with suppress(OSError):
                os.unlink(entry.path)
        elif entry.name.endswith(_SUFFIX):
            status = entry.stat()
            found.append((status.st_mtime_ns, entry.name.removesuffix(_SUFFIX), status.st_size))
    return OrderedDict((name, size) for _, name, size in sorted(found))
