"""Chooses which guesses a step verifies: those that are likelier than what their rows cost."""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Several

from trtcoder.runtime.scheduler.sequence import Sequence
from trtcoder.runtime.speculation.acceptance import Acceptance
from trtcoder.runtime.speculation.prompt_lookup import PromptLookup
from trtcoder.runtime.speculation.step_cost import StepCost

# Drafted tokens of a sequence, and of a step.
MOST = 16
_MOST_ROWS = 48
# So much better than its cost a draft must promise to be: a wrong one costs time for certain.
_MARGIN = 1.15


class Speculator:
    """Guesses for the answers of one engine.

    A step of n answers gives n tokens in a measured time. One more row is worth it where the chance
    that it gives a token, over what it adds to the time, is above the tokens a second of the step
    so far. With many answers in a step a row is a step's n-th part, and next to no guess is as
    likely as that: drafts give way by themselves.
    """

    def __init__(self, cost: StepCost | None = None) -> None:
        """Start; ``cost`` is what steps take, measured here where it is not given."""
        self.cost = cost or StepCost()
        self._rates = Acceptance()
        self._lookups: dict[Sequence, PromptLookup] = {}

    def choose(self, sequences: Several[Sequence]) -> list[tuple[int, list[int]]]:
        """Return what to draft for the sequences that a step decodes: places and tokens."""
        answers = len(sequences)
        lookups = [self._lookup(sequence) for sequence in sequences]
        seconds = self.cost.plain(answers)
        if seconds is None:
            return []
        row, expected = self.cost.row(answers), float(answers)
        least = _MARGIN * expected * row / seconds
        heap = [
            (-chance, index)
            for index, lookup in enumerate(lookups)
            if lookup.has_guess and (chance := lookup.chance(0)) >= least
        ]
        if not heap:
            return []
        heapq.heapify(heap)
        counts = [0] * answers
        for _ in range(_MOST_ROWS):
            chance, index = -heap[0][0], heap[0][1]
            if chance * seconds < _MARGIN * expected * row:
                break
            expected, seconds = expected + chance, seconds + row
            counts[index] += 1
            further = lookups[index].chance(counts[index]) if counts[index] < MOST else 0.0
            heapq.heapreplace(heap, (-chance * further, index))
        return [(index, lookups[index].guess(count)) for index, count in enumerate(counts) if count]

    def note(self, answers: int, drafted: int, seconds: float) -> None:
        """Note what a step took that only decoded; see `StepCost.note`."""
        self.cost.note(answers, drafted, seconds)

    def forget(self, sequence: Sequence) -> None:
        """Let go of a sequence that has ended."""
        self._lookups.pop(sequence, None)

    def _lookup(self, sequence: Sequence) -> PromptLookup:
        lookup = self._lookups.get(sequence)
        if lookup is None:
            rates = Acceptance(self._rates)
            lookup = PromptLookup(sequence.tokens, sequence.num_prompt, rates)
            self._lookups[sequence] = lookup
        lookup.read()
        return lookup
