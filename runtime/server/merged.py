"""Several generations read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
C = TypeVar("C")


async def merge(named: Iterable[tuple[T, AsyncIterator[C]]]) -> AsyncIterator[tuple[T, C]]:
    """Yield the chunks of all generations as they come, each with its name."""
    listed = list(named)
    if len(listed) == 1:
        ((name, generation),) = listed
        async for chunk in generation:
            yield name, chunk
        return
    waiting = {
        asyncio.ensure_future(generation.__anext__()): (name, generation)
        for name, generation in listed
    }
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                name, generation = waiting.pop(task)
                try:
                    chunk = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(generation.__anext__())] = name, generation
                yield name, chunk
    finally:
        for task in waiting:
            task.cancel()
