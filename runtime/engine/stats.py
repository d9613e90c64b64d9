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
        drafts: rows of guesses that a step verified.
        drafted_tokens: guessed tokens in them.
        accepted_tokens: those of them that came.
        accepted_at: how often the guess at each place of a draft came, the first place first.
    """

    requests: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    steps: int = 0
    asked_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = field(default_factory=list)

    def count_draft(self, drafted: int, accepted: int) -> None:
        """Count a draft of which the first ``accepted`` tokens came."""
        self.drafts += 1
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted
        self.accepted_at += [0] * (drafted - len(self.accepted_at))
        for place in range(accepted):
            self.accepted_at[place] += 1
