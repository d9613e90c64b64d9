"""Stages that work one after another on groups of sequences, event by event.

A stage takes one group at a time, in the order of the groups; a transfer does not hold up either
stage. What is computed is when each begins and ends; nothing runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Rounds that the start may differ from all later ones, and rounds that are measured.
WARM, MEASURED = 64, 512

# Seconds by stage, then by group.
Seconds = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Run:
    """How stages spent a time.

    Attributes:
        seconds: of a round of all groups, or from the first chunk's start to the last one's end.
        busy: the share of it in which each stage works.
    """

    seconds: float
    busy: tuple[float, ...]

    @property
    def bubble(self) -> float:
        """The share in which a stage waits, all stages together."""
        return 1 - sum(self.busy) / len(self.busy)


def decode(work: Seconds, transfers: Seconds) -> Run:
    """Return a round of decoding, in which each group gets one token, once it has settled.

    A group's next token begins when its last one has left the last stage, and been handed back.

    Args:
        work: seconds of each stage with each group.
        transfers: seconds from each stage to the next, and from the last to the first.
    """
    stages, groups = len(work), len(work[0])
    free, ready = [0.0] * stages, [0.0] * groups
    settled = 0.0
    for round_ in range(WARM + MEASURED):
        if round_ == WARM:
            settled = free[-1]
        for group in range(groups):
            for stage in range(stages):
                free[stage] = max(free[stage], ready[group]) + work[stage][group]
                ready[group] = free[stage] + transfers[stage][group]
    seconds = (free[-1] - settled) / MEASURED
    return Run(seconds, tuple(sum(each) / seconds for each in work))


def prefill(work: Seconds, transfers: Seconds) -> Run:
    """Return a prompt's way through the stages, chunk behind chunk.

    Args:
        work: seconds of each stage with each chunk.
        transfers: seconds from each stage to the next; the last is not used.
    """
    stages, chunks = len(work), len(work[0])
    free = [0.0] * stages
    for chunk in range(chunks):
        ready = 0.0
        for stage in range(stages):
            free[stage] = max(free[stage], ready) + work[stage][chunk]
            ready = free[stage] + transfers[stage][chunk]
    seconds = free[-1]
    return Run(seconds, tuple(sum(each) / seconds for each in work))


def decode_seconds(work: Sequence[float], transfers: Sequence[float], groups: int) -> float:
    """Return what `decode` comes to where all groups are alike.

    Either the slowest stage never waits, and a round takes it once a group, or a group never waits,
    and a round takes its way through all stages and back.
    """
    return max(groups * max(work), sum(work) + sum(transfers))


def prefill_seconds(work: Sequence[float], transfers: Sequence[float], chunks: int) -> float:
    """Return what `prefill` comes to where all chunks are alike.

    With equal stages and no transfers that is (chunks + stages - 1) stages' time, of which the
    share (stages - 1) / (chunks + stages - 1) is bubble (GPipe, arXiv 1811.06965, section 2.3).
    """
    return sum(work) + sum(transfers[:-1]) + (chunks - 1) * max(work)
