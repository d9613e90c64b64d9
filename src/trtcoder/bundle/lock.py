"""A lock that one process holds at a time, and that ends with it, however that ends.

No process ids: each build in a container may be process 1, and a dead one's id is given again.
"""

from __future__ import annotations

import os
from pathlib import Path


class FileLock:
    """A locked file, which is there only while it is held or its holder was killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; return whether no other process holds it.

        Raises:
            OSError: the file cannot be made, or its file system knows no locks.
        """
        import fcntl  # not on Windows, where engines can be run but not built

        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_at_path(descriptor):
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            # It was removed by the process that held it, so it keeps nobody out any more.
            os.close(descriptor)

    def release(self) -> None:
        """Remove the file and let the lock go; do nothing without the lock."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            # While it is held: nobody else has a lock on the file of this name.
            self.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))
