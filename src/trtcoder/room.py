"""Room on the disk and in memory, looked at before long work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trtcoder.errors import BuildError

_MEMINFO = Path("/proc/meminfo")
# The limit and the use of a container, as version 2 and version 1 of control groups have them.
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def existing_parent(path: Path) -> Path:
    """Return the nearest folder above ``path`` that is there, or the file that stands for one."""
    found = Path(os.path.abspath(path)).parent
    while not os.path.lexists(found):
        found = found.parent
    return found


def check_disk(target: Path, needed: int, reusable: int = 0) -> None:
    """Raise BuildError unless ``needed`` bytes fit beside ``target``, ``reusable`` being there."""
    folder = existing_parent(target)
    free = shutil.disk_usage(folder).free
    if needed > free + reusable:
        raise BuildError(
            f"{target}: takes {_gb(needed)}, and {_gb(free + reusable)} are free in {folder}; make "
            "room, or choose another place with --out"
        )


def memory_note(what: str, needed: int) -> str | None:
    """Return a warning where ``what`` needs more memory than is free; None where it fits."""
    free = available_memory()
    if free is None or needed <= free:
        return None
    return (
        f"note: {what} takes about {_gb(needed)} of memory, and {_gb(free)} are free; it may "
        "become slow, or be ended by the system"
    )


def available_memory() -> int | None:
    """Return the bytes that this process can still take without swapping; None if unknown."""
    found = []
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in _LIMITS:
        try:
            found.append(max(0, int(limit.read_text()) - int(used.read_text())))
        except (OSError, ValueError):  # no limit is "max"
            continue
    return min(found, default=None)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
