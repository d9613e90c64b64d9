"""What `benchmarks.cpu` asks of every program, and the form of its answers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DECODE_STEPS = 16
# Steps that are run before any counts: threads wake up and pages are read.
WARM = 2
# No row takes much longer: fewer steps are counted then.
LONGEST = 12.0


@dataclass(frozen=True, slots=True)
class Work:
    """One row of the table.

    Attributes:
        sequences: that decode together; 0 for a prefill.
        tokens: of context before the decoded tokens, or of the prompt.
    """

    sequences: int
    tokens: int

    @property
    def name(self) -> str:
        """What the row is called."""
        if not self.sequences:
            return f"prefill {self.tokens}"
        if self.sequences == 1:
            return f"decode at {self.tokens}"
        return f"{self.sequences} sequences at {self.tokens}"

    @classmethod
    def read(cls, name: str) -> Work:
        """Return the row of a name."""
        return next(work for work in all_work() if work.name == name)


def all_work() -> Iterator[Work]:
    """Yield every row."""
    for context in (0, 64, 512, 2048, 8192):
        yield Work(1, context)
    for prompt in (512, 2048):
        yield Work(0, prompt)
    for sequences in (2, 4, 8, 16):
        for context in (64, 512):
            yield Work(sequences, context)


def tokens_per_second(work: Work, step: Callable[[int], object]) -> float:
    """Return the median speed over steps; ``step`` is called with the number of the step.

    A step decodes a token of each sequence, or prefills the prompt.
    """
    warm, most = (WARM, DECODE_STEPS) if work.sequences else (0, 2)
    times: list[float] = []
    while len(times) < warm + most:
        started = time.perf_counter()
        step(len(times))
        times.append(time.perf_counter() - started)
        if len(times) > warm and sum(times) > LONGEST:
            break
    counted = times[warm:]
    made = work.sequences or work.tokens
    return made / (statistics.median(counted) if work.sequences else min(counted))
