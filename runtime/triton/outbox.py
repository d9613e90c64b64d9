"""What an engine has for clients, on its way from the engine's thread to the one that sends."""

from __future__ import annotations

import queue
import time
from typing import Generic, TypeVar

from trtcoder.runtime.engine.engine_thread import EngineThread
from trtcoder.runtime.requests.events import Cancelled, Chunk, Event, Failed, Progress

Owner = TypeVar("Owner")
# A response through Triton wakes four threads in three processes, which costs as much as a token
# of a small engine. Tokens that follow each other faster than this go out together; seconds.
_INTERVAL = 0.004


class Outbox(Generic[Owner]):
    """Events by their owners: those of a step together, of very short steps those of several."""

    def __init__(self, engine: EngineThread) -> None:
        self._ready: queue.SimpleQueue[list[tuple[Owner, Event]] | None] = queue.SimpleQueue()
        self._events: list[tuple[Owner, Event]] = []
        self._waits = True
        self._due = 0.0
        engine.after_each_step(self._after_step)

    def put(self, owner: Owner, event: Event) -> None:
        """Take an event; the engine's thread calls this."""
        if isinstance(event, Progress):
            return
        self._events.append((owner, event))
        if isinstance(event, Cancelled | Failed):
            self._flush()  # these come between steps, and no step may follow
        elif not isinstance(event, Chunk) or event.finish_reason is not None:
            self._waits = False

    def get(self) -> dict[Owner, list[Event]] | None:
        """Return all that is ready by owner, when there is something; None at the end."""
        found: dict[Owner, list[Event]] = {}
        events = self._ready.get()
        while events is not None:
            for owner, event in events:
                found.setdefault(owner, []).append(event)
            try:
                events = self._ready.get_nowait()
            except queue.Empty:
                return found
        self._ready.put(None)  # for the next call
        return found or None

    def close(self) -> None:
        """Let `get` end behind what is there; the engine's thread has ended."""
        self._flush()
        self._ready.put(None)

    def _after_step(self) -> None:
        # A chunk that does not end its answer has a step behind it, which brings another.
        if self._events and not (self._waits and time.monotonic() < self._due):
            self._flush()

    def _flush(self) -> None:
        events, self._events = self._events, []
        self._due, self._waits = time.monotonic() + _INTERVAL, True
        self._ready.put(events)
