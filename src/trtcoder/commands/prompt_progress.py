"""How far a long prompt has come, while nothing can be answered yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trtcoder.progress import Advance, step_progress

if TYPE_CHECKING:
    from trtcoder.runtime.requests.events import Progress

# Seconds that a prompt must still take for a bar to be worth it.
_LONG = 2.0


class PromptProgress:
    """Takes a request's progress, and shows a bar where the prompt takes long.

    Use as a context manager: what is shown ends with it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown = ExitStack()
        self._advance: Advance | None = None
        self._started: float | None = None
        self._computed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shown.close()

    def __call__(self, found: Progress) -> None:
        """Take what the engine says; the bar goes as soon as the prompt is computed."""
        if self._started is None:
            # Of the first part it is not known when it began: its time may be another request's.
            self._started, self._computed = self._clock(), found.computed
        elif self._advance is None:
            done, left = found.computed - self._computed, found.total - found.computed
            if done > 0 and (self._clock() - self._started) / done * left > _LONG:
                self._advance = self._shown.enter_context(
                    step_progress(
                        "reading the prompt",
                        found.total - found.cached,
                        unit="tokens",
                        transient=True,
                    )
                )
                self._advance(found.computed - found.cached, "")
                self._computed = found.computed
        else:
            self._advance(found.computed - self._computed, "")
            self._computed = found.computed
        if found.computed >= found.total:
            self._shown.close()
