"""How many tokens a cache may hold in this machine's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trtcoder.bundle.manifest import Manifest

_SHARE = 0.25
_MEMORY = Path("/proc/meminfo")
_LIMIT = Path("/sys/fs/cgroup/memory.max")


def tokens_that_fit(manifest: Manifest, context: int | None = None) -> int:
    """Return the tokens that a quarter of the free memory holds.

    At least one context, of at most the model's, where one is asked for; at most eight of them.
    """
    row = sum(np.dtype(cache.dtype).itemsize * cache.width for cache in manifest.graph.caches)
    longest = context or manifest.model.max_positions
    fitting = int(_free_bytes() * _SHARE) // row
    least = context or min(longest, 4096)
    return max(least, min(fitting, 8 * longest))


def _free_bytes() -> int:
    free = 4 << 30
    try:
        for line in _MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return free
    try:
        return min(free, int(_LIMIT.read_text()))
    except (OSError, ValueError):  # no limit, or "max"
        return free
