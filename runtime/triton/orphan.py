"""Ends a model's process whose server has died.

Triton's stub waits without an end for a server that was killed while a response was sent, and holds
the engine's memory meanwhile.
"""

from __future__ import annotations

import os
import threading
import time

_PERIOD_SECONDS = 1.0
# For the stub to end by itself, as it does where nothing was under way.
_GRACE_SECONDS = 5.0


def end_with_server() -> None:
    """Watch the process that started this one, and end when it has died."""
    threading.Thread(
        target=_watch, args=(os.getppid(),), name="trtcoder-triton-orphan", daemon=True
    ).start()


def _watch(server: int) -> None:
    while os.getppid() == server:
        time.sleep(_PERIOD_SECONDS)
    time.sleep(_GRACE_SECONDS)
    # Without what else would happen at an end: the stub's waits for the server.
    os._exit(1)
