"""How an engine is run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trtcoder.errors import RequestError
from trtcoder.runtime.sampling.params import SamplingParams

MAX_THREADS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the user of an engine may choose.

    Attributes:
        threads: of the matrix products; None takes the cores that may be used.
        context: most tokens of one prompt and its answer; None takes the model's context.
        cache_tokens: tokens that the cache holds, for all requests together; None takes the
            context. Memory is reserved, and only taken by the rows in use.
        max_batch: answers that are computed at the same time.
        max_queue: answers that may wait.
        chunk: most prompt tokens of a step.
        gap_seconds: how long a prompt's chunk may delay the answers that are running.
        prefix_cache: keep rows of finished requests for those that begin alike.
        deterministic: one answer at a time, whole chunks, nothing reused, so that a text does not
            depend on what else is asked.
        prefix_store: a folder in which prefixes outlive the process; None keeps them in memory.
        prefix_store_bytes: that it may take.
        speculate: guess tokens from what stands in the sequence already, and verify several in one
            step. None does so where it cannot change a text: on our kernels alone.
        sampling: what a request's parameters are where it gives none.
    """

    threads: int | None = None
    context: int | None = None
    cache_tokens: int | None = None
    max_batch: int = 8
    max_queue: int = 1024
    chunk: int = 512
    gap_seconds: float = 0.5
    prefix_cache: bool = True
    deterministic: bool = False
    prefix_store: Path | None = None
    prefix_store_bytes: int = 8 << 30
    speculate: bool | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("threads", 1, MAX_THREADS),
            ("context", 2, None),
            ("cache_tokens", 2, None),
            ("max_batch", 1, 1024),
            ("max_queue", 1, None),
            ("chunk", 16, 65536),
            ("prefix_store_bytes", 1, None),
        ):
            value = getattr(self, name)
            if value is None and name in ("threads", "context", "cache_tokens"):
                continue
            if (
                not isinstance(value, int)
                or isinstance(value, bool)
                or value < least
                or (most is not None and value > most)
            ):
                bounds = f"at least {least}" if most is None else f"from {least} to {most}"
                raise RequestError(f"{name} is {value!r}; it must be a whole number {bounds}")
        if self.speculate and self.deterministic:
            raise RequestError("speculate: not together with deterministic; leave one of them out")
        if not self.gap_seconds > 0:
            raise RequestError(f"gap_seconds is {self.gap_seconds!r}; it must be above 0")
