"""Drafts for tests: right and wrong on purpose, and at a cost that no clock says."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from trtcoder.runtime.scheduler.sequence import Sequence as Tokens
from trtcoder.runtime.speculation.speculator import Speculator
from trtcoder.runtime.speculation.step_cost import StepCost


class CheapRows(StepCost):
    """As if a drafted token cost a hundredth of a step, on whatever machine this is."""

    def note(self, answers: int, drafted: int, seconds: float) -> None:
        """Note what was decided beforehand."""
        super().note(answers, drafted, 1.0 + 0.01 * drafted)


class Guesses(Speculator):
    """Drafts what will come, from what came before without drafts, and often something else."""

    def __init__(self, answers: Mapping[tuple[int, ...], list[list[int]]], seed: int) -> None:
        super().__init__()
        self._answers = answers
        self._random = random.Random(seed)

    def choose(self, sequences: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
        """Return parts of the known answers, some of them changed in one place."""
        return [(place, self._guess(sequence)) for place, sequence in enumerate(sequences)]

    def _guess(self, sequence: Tokens) -> list[int]:
        done = sequence.tokens[sequence.num_prompt :]
        known = self._answers[tuple(sequence.tokens[: sequence.num_prompt])]
        coming = [each[len(done) :] for each in known if each[: len(done)] == done]
        guess = self._random.choice(coming)[: self._random.randrange(9)]
        if guess and self._random.random() < 0.5:
            guess[self._random.randrange(len(guess))] = self._random.randrange(256)
        return guess
