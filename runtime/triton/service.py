"""The engine's requests inside Triton: asked in any thread, answered by one, watched by another.

1. `TritonService.ask` reads the tensors, and the engine's thread computes beside all others.
2. What it has goes to `_send`, in a thread of its own, since to send waits for Triton. Parts of one
   answer that came meanwhile go out together.
3. `_watch` looks for clients that left, and ends what they asked.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from trtcoder.errors import EngineError, RequestError, TrtcoderError
from trtcoder.refusals import is_refusal, reason
from trtcoder.runtime.engine.job import Job
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.requests.events import Cancelled, Chunk, Event, Failed
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.triton.answers import Answers
from trtcoder.runtime.triton.asked import Asked
from trtcoder.runtime.triton.outbox import Outbox
from trtcoder.runtime.triton.reply import CancelledError, Reply
from trtcoder.runtime.triton.settings import ModelSettings
from trtcoder.runtime.triton.tensor import Inputs

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Running:
    """A request on its way.

    Attributes:
        id: that its client gave it, often none.
        answers: what it has come to; None until it is read.
        job: the engine's; None until it is queued.
        is_queued: whether it has its job.
        is_over: its last response is out, or it needs none.
    """

    id: str
    reply: Reply
    answers: Answers | None = None
    job: Job | None = None
    is_queued: threading.Event = field(default_factory=threading.Event)
    is_over: bool = False
    is_cancelled: bool = False


class TritonService:
    """One engine for Triton's requests. All methods may be called from any thread."""

    def __init__(
        self,
        llm: LLM,
        settings: ModelSettings,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Take an engine that is loaded; ``on_beat`` is called once a period of the watch."""
        self.llm = llm
        self._settings = settings
        self._on_beat = on_beat
        self._lock = threading.Lock()
        self._running: set[_Running] = set()
        self._by_id: dict[str, set[_Running]] = defaultdict(set)
        self._outbox: Outbox[_Running] = Outbox(llm.engine.thread)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"trtcoder-triton-{name}", daemon=True)
            for name, target in (("send", self._send), ("watch", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered: the engine's thread lives."""
        return self.llm.engine.thread.is_alive and self._threads[0].is_alive()

    @property
    def num_open(self) -> int:
        """Requests that wait for their last response."""
        return len(self._running)

    def ask(self, inputs: Inputs, request_id: str, reply: Reply) -> None:
        """Take a request; whatever is wrong with it is told to ``reply``."""
        running = _Running(request_id, reply)
        try:
            if inputs.flag("stop"):
                self._stop(request_id)
                raise CancelledError  # which is how NVIDIA's model answers it
            self._start(running, inputs)
        except Exception as error:
            self._forget(running)
            reply.fail(_told(error))

    def close(self) -> None:
        """End what is running; returns when every answer is sent and the engine has ended."""
        self._closing.set()
        self.llm.close()
        self._outbox.close()
        for thread in self._threads:
            thread.join()

    def _start(self, running: _Running, inputs: Inputs) -> None:
        config = self._settings.triton_config
        asked = Asked.read(
            inputs,
            self.llm.prompts,
            max_tokens=min(self._settings.max_answer_tokens, self.llm.context),
            deltas=config.stream_deltas,
        )
        if asked.streaming and not config.decoupled:
            raise RequestError(
                "streaming: this model answers in one response; leave it out, or set "
                "triton_config.decoupled in its model.yaml and load it again"
            )
        thread = self.llm.engine.thread
        block = self.llm.manifest.graph.cache_block
        # The engine's thread may have events before `submit` returns.
        running.answers = Answers(asked, Usage(len(asked.request.prompt_ids)), block)
        with self._lock:
            self._running.add(running)
            if running.id:
                self._by_id[running.id].add(running)
        running.job = thread.submit(asked.request, lambda event: self._outbox.put(running, event))
        running.is_queued.set()

    def _stop(self, request_id: str) -> None:
        if not request_id:
            raise RequestError("stop: give the request id of what is to be stopped")
        with self._lock:
            found = list(self._by_id.get(request_id, ()))
        for running in found:
            self._cancel(running)

    def _cancel(self, running: _Running) -> None:
        if running.job is not None and not running.is_cancelled:
            running.is_cancelled = True
            self.llm.engine.thread.cancel(running.job)

    def _forget(self, running: _Running) -> None:
        with self._lock:
            running.is_over = True
            self._running.discard(running)
            same = self._by_id.get(running.id)
            if same is not None:
                same.discard(running)
                if not same:
                    del self._by_id[running.id]

    def _send(self) -> None:
        while (found := self._outbox.get()) is not None:
            for running, events in found.items():
                if not running.is_over:
                    self._answer(running, events)

    def _answer(self, running: _Running, events: list[Event]) -> None:
        """Send what a request's events have come to."""
        # Events may be here before the thread that asked goes on.
        running.is_queued.wait()
        answers, job = running.answers, running.job
        if answers is None or job is None:
            return
        answers.usage = job.usage
        failure: Exception | None = None
        for event in events:
            match event:
                case Chunk():
                    answers.add(event)
                case Cancelled():
                    answers.cancelled()
                    failure = CancelledError()
                case Failed():
                    failure = event.error
        over = answers.is_over or failure is not None
        try:
            if failure is not None:
                running.reply.fail(failure)
            elif over or (answers.asked.streaming and answers.has_news):
                running.reply.send(answers.take(), last=over)
        except Exception as error:
            # A response that cannot be made or sent is an error of its request alone.
            over = True
            self.llm.engine.thread.cancel(job)
            with contextlib.suppress(Exception):
                running.reply.fail(_told(error))
        if over:
            self._forget(running)

    def _watch(self) -> None:
        period = self._settings.triton_config.cancellation_check_period_ms / 1000
        while not self._closing.wait(period):
            with self._lock:
                found = list(self._running)
            for running in found:
                if not running.is_over and running.reply.is_cancelled():
                    self._cancel(running)
            self._on_beat()


def _told(error: Exception) -> Exception:
    """Return an error as its client is told it; a defect of ours keeps its name."""
    if isinstance(error, TrtcoderError | CancelledError):
        return error
    if is_refusal(error):
        return EngineError(reason(error))
    _log.error("a request failed", exc_info=error)
    return EngineError(f"this request failed: {error!r}")
