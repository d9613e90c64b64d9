"""The thread that owns an engine: requests come in from any thread, events go out to sinks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from trtcoder.errors import BusyError, EngineError, TrtcoderError
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.job import Job, Sink
from trtcoder.runtime.requests.events import Failed
from trtcoder.runtime.requests.request import Request

_Command = Callable[[], None]


class EngineThread:
    """Runs an engine's steps while there is work. All methods may be called from any thread.

    Attributes:
        core: what it owns; from elsewhere only what says so may be used.
        failure: what ended the thread, if it was not `close`.
    """

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._closing = False
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._submitted = 0  # answers on their way into the core
        self._after_step: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._loop, name="trtcoder-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    def submit(self, request: Request, sink: Sink) -> Job:
        """Queue a request; ``sink`` is told of its events, in the engine's thread.

        Returns at once, also while a long step is running.

        Raises:
            RequestError: the request is malformed; nothing is queued.
            BusyError: the queue is full, or the engine is closed.
        """
        job = self.core.prepare(request, sink)
        if not self.is_alive:
            raise BusyError("the engine is closed; open it again")
        count = len(job.answers)
        with self._lock:
            self.core.check_room(self._submitted + count)
            self._submitted += count

        def enter() -> None:
            with self._lock:
                self._submitted -= count
            try:
                self.core.submit(job)
            except TrtcoderError as error:
                sink(Failed(error))

        self._commands.put(enter)
        return job

    def cancel(self, job: Job) -> None:
        """End a request at the end of the step that is running."""
        self._commands.put(lambda: self.core.cancel(job))

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function in the engine's thread, between two steps."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:  # handed to whoever waits
                done.set_exception(error)

        self._commands.put(run)
        if not self._thread.is_alive():
            self._drain(wait=False)
        return done

    def after_each_step(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the engine's thread when a step's events are out."""
        self._after_step.append(function)

    def close(self) -> None:
        """End all requests and the thread; returns when the step that is running is over."""
        self._closing = True
        self._commands.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        try:
            while self._drain(wait=not self.core.has_work):
                if self.core.has_work:
                    self.core.step()
                    self.core.busy_since = None
                    for function in self._after_step:
                        function()
            self.core.fail_all(BusyError("the engine was closed"))
            self.core.close()
        except BaseException as error:
            self._closing = True
            self.core.fail_all(
                error
                if isinstance(error, TrtcoderError)
                else EngineError(f"the engine's thread failed: {error!r}; open the engine again")
            )
            self.failure = error
        finally:
            for function in self._after_step:
                function()

    def _drain(self, *, wait: bool) -> bool:
        """Run the commands that came in, waiting for one if told to; False to end."""
        goes_on = True
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return goes_on
            wait = False
            if command is None:
                goes_on = False
            else:
                command()
