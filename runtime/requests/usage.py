"""What a request has cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Usage:
    """Counts and times of a request so far, all its answers together.

    Attributes:
        prompt_tokens: of the prompt, BOS and other control tokens too.
        cached_tokens: those of them whose rows were in the cache.
        completion_tokens: sampled tokens, also end-of-sequence tokens.
        queued, started, first_token, last_token: when it was queued, first ran, and sampled;
            seconds of a monotonic clock, None before.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    queued: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    @property
    def prefill_seconds(self) -> float:
        """Time from its first step to its first token; what ran beside it counts too."""
        if self.started is None or self.first_token is None:
            return 0.0
        return self.first_token - self.started

    @property
    def decode_seconds(self) -> float:
        """Time from its first token to its last."""
        if self.first_token is None or self.last_token is None:
            return 0.0
        return self.last_token - self.first_token

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Rate after the first token, which prefill gives; None before a second one."""
        if self.completion_tokens < 2 or not self.decode_seconds:
            return None
        return (self.completion_tokens - 1) / self.decode_seconds

    def count(self, now: float) -> None:
        """Note a sampled token."""
        self.completion_tokens += 1
        self.first_token = self.first_token or now
        self.last_token = now
