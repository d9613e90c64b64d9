"""Hashes a file of weights while it is written: as far as it is whole from its beginning."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

_READ_BYTES = 1 << 20


class HashFollower:
    """A thread that follows the writers of a file, so that hashing adds no time at the end.

    It reads what they have just written, which is in the page cache.
    """

    def __init__(
        self,
        weights: Sequence[tuple[str, int, int]],
        size: int,
        read_into: Callable[[memoryview, int], None],
    ) -> None:
        """Start at the beginning of the file.

        Args:
            weights: name, rows and byte offset of each weight, in the file's order.
            size: of the file, in bytes.
            read_into: fills a buffer with the file's bytes at an offset.
        """
        self._weights, self._size, self._read_into = weights, size, read_into
        self._filled: Counter[str] = Counter()
        self._whole = 0  # weights, from the first, that are whole
        self._watermark = self._hashed = 0  # bytes
        self._stopped = False
        self._failure: BaseException | None = None
        self._digest = hashlib.sha256()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def add(self, filled: Mapping[str, int]) -> None:
        """Take note of rows that have been written, by weight."""
        with self._changed:
            self._filled.update(filled)
            while self._whole < len(self._weights):
                name, rows, offset = self._weights[self._whole]
                if self._filled[name] < rows:
                    self._watermark = offset
                    break
                self._whole += 1
            else:
                self._watermark = self._size
            self._changed.notify()

    def finish(self) -> str:
        """Wait for the last byte; return the file's sha256 in hex."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Give up, if the file will not be whole."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_READ_BYTES))
        try:
            while self._hashed < self._size:
                with self._changed:
                    self._changed.wait_for(self._has_work)
                    reach = self._watermark
                while self._hashed < reach:
                    if self._stopped:
                        return
                    part = buffer[: min(_READ_BYTES, reach - self._hashed)]
                    self._read_into(part, self._hashed)
                    self._digest.update(part)
                    self._hashed += len(part)
                if self._stopped:
                    return
        except BaseException as error:  # handed to the thread that waits
            self._failure = error

    def _has_work(self) -> bool:
        return self._stopped or self._watermark > self._hashed
