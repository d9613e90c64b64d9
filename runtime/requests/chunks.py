"""The chunks of answers as an asynchronous iterator, over all that comes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator

from trtcoder.runtime.requests.events import Chunk, Progress, PromptLogprobs


class Chunks(AsyncIterator[Chunk]):
    """Iterates over the chunks among the events, and passes over the others."""

    __slots__ = ()

    @abstractmethod
    async def next_event(self) -> Chunk | Progress | PromptLogprobs | None:
        """Return what comes next; None at the end.

        Raises:
            TrtcoderError: the request failed.
        """

    async def __anext__(self) -> Chunk:
        while True:
            event = await self.next_event()
            if event is None:
                raise StopAsyncIteration
            if isinstance(event, Chunk):
                return event
