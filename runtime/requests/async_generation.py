"""A request's answers as an asynchronous iterator, for an event loop."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from trtcoder.runtime.requests.chunks import Chunks
from trtcoder.runtime.requests.events import (
    Cancelled,
    Chunk,
    Event,
    Failed,
    FinishReason,
    Progress,
    PromptLogprobs,
)
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import SamplingParams

if TYPE_CHECKING:
    from trtcoder.runtime.engine.engine_thread import EngineThread


# Waking a loop costs as much as several tokens. Tokens that follow each other faster than this
# go out together; seconds.
_INTERVAL = 0.002


class Mailbox:
    """Events for one reader in the loop's thread: a queue without a bound, and cheaper."""

    __slots__ = ("_events", "_waiter")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Event:
        """Return the next event, when there is one."""
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._events.popleft()


class EventBridge:
    """Brings events from an engine's thread to one event loop, those of a step together.

    Of very short steps, those of several: a chunk that does not end its answer may wait for
    `_INTERVAL`, since the engine goes on and brings another.
    """

    def __init__(self, engine: EngineThread, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: list[tuple[Mailbox, Event]] = []
        self._waits = True
        self._due = 0.0
        engine.after_each_step(self._flush)

    def put(self, mailbox: Mailbox, event: Event) -> None:
        """Take an event; the engine's thread calls this."""
        self._events.append((mailbox, event))
        if not isinstance(event, Chunk) or event.finish_reason is not None:
            self._waits = False

    def _flush(self) -> None:
        if not self._events:
            return
        now = time.monotonic()
        if self._waits and now < self._due:
            return
        self._due, self._waits = now + _INTERVAL, True
        events, self._events = self._events, []
        try:
            self._loop.call_soon_threadsafe(_deliver, events)
        except RuntimeError:  # the loop is closed; nobody waits any more
            return


def _deliver(events: list[tuple[Mailbox, Event]]) -> None:
    for mailbox, event in events:
        mailbox.put(event)


_bridges: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, weakref.WeakKeyDictionary[EngineThread, EventBridge]
] = weakref.WeakKeyDictionary()


def bridge_of(engine: EngineThread) -> EventBridge:
    """Return the bridge from an engine to the running loop."""
    loop = asyncio.get_running_loop()
    bridges = _bridges.setdefault(loop, weakref.WeakKeyDictionary())
    if engine not in bridges:
        bridges[engine] = EventBridge(engine, loop)
    return bridges[engine]


class AsyncGeneration(Chunks):
    """The chunks of a request's answers, as `Generation`; leave by `close` or by the end.

    Attributes:
        seed: of its first answer: the same seed gives the same text.
        finish_reason: why its last answer ended; None while it goes on.
        stop_reason: the stop string or stop token that ended it, if one did.
        progress: how much of the prompt is computed; None before its first chunk.
        prompt_logprobs: where they were asked for, once the prompt is computed.
        finish_reasons: why its answers ended, by their index; those that have ended.
        failure: what it failed with.
    """

    def __init__(self, engine: EngineThread, request: Request) -> None:
        """Queue a request; in the loop that will read it.

        Raises:
            RequestError: it is malformed.
            BusyError: the queue is full.
        """
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.progress: Progress | None = None
        self.prompt_logprobs: PromptLogprobs | None = None
        self.finish_reasons: dict[int, FinishReason] = {}
        self.failure: Exception | None = None
        self._engine = engine
        self._events = Mailbox()
        bridge = bridge_of(engine)
        self._job = engine.submit(request, lambda event: bridge.put(self._events, event))
        self._open = len(self._job.answers)
        self.seed = next(iter(self._job.answers.values())).sampler.seed

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What the model saw."""
        return self._job.request.prompt_ids

    @property
    def params(self) -> SamplingParams:
        """How tokens are chosen, with the engine's defaults where nothing was asked."""
        return self._job.params

    @property
    def num_answers(self) -> int:
        """Answers that were asked for."""
        return len(self._job.answers)

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self._job.usage

    async def next_event(self) -> Chunk | Progress | PromptLogprobs | None:
        """Return what comes next; None at the end.

        Raises:
            TrtcoderError: the request failed.
        """
        while self._open:
            event = await self._events.get()
            match event:
                case Chunk():
                    if event.finish_reason is not None:
                        self.finish_reasons[event.index] = event.finish_reason
                        self._end(event.finish_reason, event.stop_reason)
                    return event
                case Progress():
                    self.progress = event
                    return event
                case PromptLogprobs():
                    self.prompt_logprobs = event
                    return event
                case Cancelled():
                    self._end("cancelled")
                case Failed():
                    self._open = 0
                    self.failure = event.error
                    raise event.error
        return None

    def close(self) -> None:
        """End here; nothing more is computed, and ``finish_reason`` is ``cancelled``."""
        if self._open:
            self._open = 0
            self.finish_reason = "cancelled"
            self._engine.cancel(self._job)

    def _end(self, reason: FinishReason, stop: str | int | None = None) -> None:
        self._open -= 1
        self.finish_reason, self.stop_reason = reason, stop
