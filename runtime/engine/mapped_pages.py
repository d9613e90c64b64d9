"""Enters an engine's mapped weights into the page tables before tokens need them.

A session maps its weights and reads nothing. Every token takes other experts, so that for the first
hundred tokens most steps would touch pages for the first time and wait for the system to enter
them: see docs/decisions/0041-pages-before-tokens.md.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from trtcoder.room import available_memory

_POPULATE_READ = 22  # MADV_POPULATE_READ, since Linux 5.14; others refuse it
# Between two pieces the thread looks whether the pages are still wanted.
_PIECE = 64 << 20


def enter_pages(files: Iterable[Path], owner: object) -> threading.Thread:
    """Enter what this process has mapped of ``files``, in a thread of its own; return that thread.

    What is not in memory is read from the disk. Nothing is done where that would take more memory
    than there is, nor on systems that cannot; the thread ends early once ``owner`` is gone.
    """
    names = frozenset(str(path.resolve()) for path in files)
    thread = threading.Thread(
        target=_enter, args=(names, weakref.ref(owner)), name="trtcoder-pages", daemon=True
    )
    thread.start()
    return thread


def _enter(names: frozenset[str], owner: weakref.ref[object]) -> None:
    found = [*_mapped(names)]
    room = available_memory()
    if not found or room is None or sum(stop - start for start, stop in found) > room:
        return
    madvise = ctypes.CDLL(None).madvise
    for start, stop in found:
        for piece in range(start, stop, _PIECE):
            size = min(_PIECE, stop - piece)
            # Memory that was unmapped meanwhile is refused; what may lie there now stays as it is.
            if owner() is None or madvise(
                ctypes.c_void_p(piece), ctypes.c_size_t(size), _POPULATE_READ
            ):
                return


def _mapped(names: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Yield the first address of each mapping of the files, and the one behind its last."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in names:
            start, stop = parts[0].split("-")
            yield int(start, 16), int(stop, 16)
