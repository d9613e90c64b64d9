"""Counters of an engine, read by other threads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class EngineStats:
    """What an engine has done.

    Attributes:
        requests: that were queued.
        finished: answers by their finish reason.
        failed: requests that ended with an error.
        steps: forward passes.
        asked_tokens: tokens of the prompts that began to run.
        generated_tokens: tokens sampled.
        cached_tokens: those of them that were in the cache.
    """

    requests: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    steps: int = 0
    asked_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
