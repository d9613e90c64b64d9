"""Where benchmarks and tests keep what they download and build, for all working trees."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """Return this project's folder in the user's cache, which may not be there yet.

    It is in ``$XDG_CACHE_HOME``, or in ``~/.cache`` where that is not set.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trtcoder"
