"""Counters of an engine, read by other threads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from trtcoder.runtime.scheduler.scheduler import Scheduler, Step


@dataclass(slots=True)
class EngineStats:
    """What an engine has done, and what it holds.

    Attributes:
        requests: that were queued.
        finished: answers by their finish reason.
        failed: requests that ended with an error.
        steps: forward passes.
        prompt_tokens: prompt tokens computed.
        generated_tokens: tokens sampled.
        cached_tokens: prompt tokens that were in the cache.
        preemptions: how often an answer lost its blocks.
        waiting, running: answers now.
        cache_usage: share of the cache's blocks that answers hold now, 0 to 1.
    """

    requests: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    waiting: int = 0
    running: int = 0
    cache_usage: float = 0.0

    def note(self, step: Step, scheduler: Scheduler) -> None:
        """Count a step that was run."""
        self.steps += 1
        self.prompt_tokens += sum(work.count for work in step.works if work.count > 1)
        self.preemptions = scheduler.preemptions
        self.waiting, self.running = len(scheduler.waiting), len(scheduler.running)
        cache = scheduler.cache
        self.cache_usage = 1.0 - cache.num_available / cache.num_blocks
