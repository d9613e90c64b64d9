"""A request's answers as an iterator, for the thread that asked."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from trtcoder.runtime.engine.engine_thread import EngineThread

OnProgress = Callable[[Progress], None]


class Generation(Iterator[Chunk]):
    """The chunks of a request's answers; iterate over it to stream, or call `text`.

    Attributes:
        seed: of its first answer: the same seed gives the same text.
        finish_reason: why its last answer ended; None while it goes on.
        stop_reason: the stop string or stop token that ended it, if one did.
        prompt_logprobs: where they were asked for, once the prompt is computed.
    """

    def __init__(
        self, engine: EngineThread, request: Request, on_progress: OnProgress | None = None
    ) -> None:
        """Queue a request; ``on_progress`` is told of its prompt, in the reading thread."""
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.prompt_logprobs: PromptLogprobs | None = None
        self._engine = engine
        self._on_progress = on_progress
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._job = engine.submit(request, self._events.put)
        self._open = len(self._job.answers)
        self.seed = next(iter(self._job.answers.values())).sampler.seed

    @property
    def num_answers(self) -> int:
        """Answers that were asked for."""
        return len(self._job.answers)

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self._job.usage

    def __next__(self) -> Chunk:
        while self._open:
            try:
                event = self._events.get()
            except BaseException:  # Ctrl-C: nobody reads on
                self.close()
                raise
            match event:
                case Chunk():
                    if event.finish_reason is not None:
                        self._end(event.finish_reason, event.stop_reason)
                    return event
                case Progress():
                    if self._on_progress is not None:
                        self._on_progress(event)
                case PromptLogprobs():
                    self.prompt_logprobs = event
                case Cancelled():
                    self._end("cancelled")
                case Failed():
                    self._open = 0
                    raise event.error
        raise StopIteration

    def text(self) -> str:
        """Read what is left and return its text."""
        return "".join(chunk.text for chunk in self)

    def close(self) -> None:
        """End here; nothing more is computed, and ``finish_reason`` is ``cancelled``."""
        if self._open:
            self._open = 0
            self.finish_reason = "cancelled"
            self._engine.cancel(self._job)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it never began
            self.close()

    def _end(self, reason: FinishReason, stop: str | int | None = None) -> None:
        self._open -= 1
        self.finish_reason, self.stop_reason = reason, stop
