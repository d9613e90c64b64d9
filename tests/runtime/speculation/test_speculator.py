from __future__ import annotations

import random

import pytest

from trtcoder.runtime.scheduler.sequence import Sequence
from trtcoder.runtime.speculation.acceptance import Acceptance
from trtcoder.runtime.speculation.speculator import MOST, Speculator
from trtcoder.runtime.speculation.step_cost import StepCost

TEXT = list(range(100, 400))


def copying(prompt: list[int], done: int = 8) -> Sequence:
    """Return a sequence that has copied the first ``done`` tokens of its prompt."""
    return Sequence([*prompt, *prompt[:done]], len(prompt))


def speculator(answers: int = 1, row: float = 0.1) -> Speculator:
    """Return one for which a step takes a second, and a drafted token ``row`` more."""
    cost = StepCost()
    cost.note(answers, 0, 1.0)
    for _ in range(100):
        cost.note(answers, 10, 1.0 + 10 * row)
    return Speculator(cost)


def drafted_now(found: Speculator, sequence: Sequence) -> list[int]:
    """Return what is drafted for a sequence that decodes alone."""
    return [token for _, tokens in found.choose([sequence]) for token in tokens]


def answer(sequence: Sequence, tokens: list[int], found: Speculator) -> int:
    """Let a sequence go on with tokens as an engine would; return the steps that it takes."""
    rest, steps = list(tokens), 0
    while rest:
        draft = drafted_now(found, sequence)
        steps += 1
        sequence.tokens.append(rest.pop(0))
        for token in draft:
            if not rest or sequence.tokens[-1] != token:
                break
            sequence.tokens.append(rest.pop(0))
    return steps


def drafted(sequence: Sequence, tokens: list[int], found: Speculator) -> int:
    """Return how many tokens are drafted while a sequence goes on with tokens one by one."""
    total = 0
    for token in tokens:
        total += len(drafted_now(found, sequence))
        sequence.tokens.append(token)
    return total


def test_a_copied_text_takes_a_fraction_of_the_steps() -> None:
    assert answer(copying(TEXT), TEXT[8:], speculator()) < len(TEXT) / 5


def test_a_text_that_copies_nothing_is_drafted_for_next_to_never() -> None:
    rng = random.Random(4)
    prompt = [rng.randrange(40) for _ in range(2000)]
    found = speculator(row=0.3)
    rows = drafted(Sequence(prompt, len(prompt)), [rng.randrange(40) for _ in range(600)], found)
    assert rows <= 12


def test_what_was_learnt_from_one_answer_holds_for_the_next() -> None:
    rng = random.Random(5)
    prompt = [rng.randrange(12) for _ in range(2000)]
    found = speculator(row=0.3)
    for _ in range(3):
        first = Sequence(list(prompt), len(prompt))
        drafted(first, [rng.randrange(12) for _ in range(200)], found)
    assert drafted(Sequence(list(prompt), len(prompt)), [1] * 2, found) == 0


def test_a_row_that_costs_as_much_as_a_step_is_not_drafted() -> None:
    assert drafted(copying(TEXT), TEXT[8:100], speculator(row=1.0)) == 0


def test_cheaper_rows_give_longer_drafts() -> None:
    lengths = []
    for row in (0.02, 0.15, 0.4):
        found, sequence = speculator(row=row), copying(TEXT)
        answer(sequence, TEXT[8:60], found)
        lengths.append(len(drafted_now(found, sequence)))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == MOST
    assert lengths[0] > lengths[2] > 0


@pytest.mark.parametrize(("answers", "expected"), [(1, True), (64, False)])
def test_drafts_give_way_to_many_answers(answers: int, expected: bool) -> None:
    # A step costs 2 and each of its rows 1, drafted or not.
    cost = StepCost()
    cost.note(answers, 0, 2.0 + answers)
    cost.note(answers, 8, 2.0 + answers + 8)
    found = Speculator(cost)
    sequences = [copying(TEXT) for _ in range(answers)]
    assert bool(found.choose(sequences)) == expected


def test_nothing_is_drafted_before_a_step_was_measured() -> None:
    assert Speculator().choose([copying(TEXT)]) == []


def test_one_step_that_was_held_up_does_not_end_drafting() -> None:
    found, sequence = speculator(), copying(TEXT)
    answer(sequence, TEXT[8:40], found)
    usual = len(drafted_now(found, sequence))
    found.note(1, 8, 1000.0)
    assert len(drafted_now(found, sequence)) >= usual // 2


def test_a_cost_that_was_once_too_high_is_forgotten() -> None:
    cost = StepCost()
    cost.note(1, 0, 1.0)
    cost.note(1, 4, 9.0)
    assert cost.row(1) == 2.0
    for _ in range(2000):
        cost.note(1, 0, 1.0)
    assert cost.row(1) < 0.5


def test_rates_follow_what_happens() -> None:
    rates = Acceptance()
    for _ in range(300):
        rates.note(10, True)
    assert rates.chance(10) > 0.95
    for _ in range(300):
        rates.note(10, False)
    assert rates.chance(10) < 0.1
    assert rates.chance(3) == Acceptance().chance(3)
