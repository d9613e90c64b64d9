"""Lets a command clean up and say what it leaves when it is told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_by_exception() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit inside the block, as Ctrl-C is KeyboardInterrupt.

    The exit status is the shell's for that signal. What ignores or handles one of them stays.
    """
    signals = [signal.SIGTERM, signal.SIGHUP]
    ours = [
        each
        for each in signals
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(each) is signal.SIG_DFL
    ]
    for each in ours:
        signal.signal(each, _exit)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
