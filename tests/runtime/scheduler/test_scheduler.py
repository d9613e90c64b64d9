from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcoder.errors import BusyError, RequestError
from trtcoder.runtime.cache.latent_cache import LatentCache
from trtcoder.runtime.scheduler.pace import Pace
from trtcoder.runtime.scheduler.scheduler import Limits, Scheduler, Step
from trtcoder.runtime.scheduler.sequence import Sequence, State

BLOCK = 4


def scheduler(
    blocks: int = 64, *, max_sequences: int = 8, context: int = 128, max_waiting: int = 100
) -> Scheduler:
    limits = Limits(max_sequences, max_waiting, context, score_cells=1 << 30)
    return Scheduler(LatentCache(blocks, BLOCK), limits)


def prompt(count: int, first: int = 1, client: str = "") -> Sequence:
    return Sequence([first, *range(2, count + 1)], count, client=client)


def run(scheduler: Scheduler, budget: int) -> Step:
    """Schedule a step and do as if it ran; every caught-up sequence gets a token."""
    step = scheduler.schedule(budget)
    scheduler.copied()
    for work in step.works:
        scheduler.advance(work.sequence, work.count)
        if not work.sequence.num_missing:
            work.sequence.tokens.append(7)
    for sequence in step.out_of_room:
        scheduler.finish(sequence)
    scheduler.check()
    return step


def counts(step: Step) -> dict[int, int]:
    return {work.sequence.tokens[0]: work.count for work in step.works}


def test_decodes_come_first_and_prompts_take_what_is_left() -> None:
    queue = scheduler()
    queue.add(prompt(3, 10), prompt(2, 20))
    run(queue, 8)
    queue.add(prompt(30, 30))
    assert counts(run(queue, 8)) == {10: 1, 20: 1, 30: 6}


def test_a_long_prompt_delays_running_answers_by_one_chunk() -> None:
    queue = scheduler()
    queue.add(prompt(2, 10))
    run(queue, 8)
    queue.add(prompt(60, 20))
    steps = [counts(run(queue, 8)) for _ in range(8)]
    assert all(step[10] == 1 for step in steps)
    assert [step[20] for step in steps] == [7] * 8


def test_a_short_prompt_behind_a_long_one_waits_for_one_chunk() -> None:
    queue = scheduler()
    queue.add(prompt(60, 10))
    run(queue, 8)
    queue.add(prompt(5, 20))
    steps = [counts(run(queue, 8)) for _ in range(3)]
    assert any(20 in step for step in steps[:2])
    # And the long one is not starved by short ones that keep coming.
    for first in range(30, 60):
        queue.add(prompt(5, first))
        steps.append(counts(run(queue, 8)))
    assert sum(step.get(10, 0) for step in steps) >= 40


def test_clients_get_equal_shares() -> None:
    queue = scheduler(blocks=600, max_sequences=64)
    queue.add(*(prompt(40, 10 + i, "many") for i in range(9)))
    run(queue, 8)
    queue.add(prompt(40, 99, "one"))
    served = {"many": 0, "one": 0}
    for _ in range(8):
        for work in queue.schedule(8).works:
            served[work.sequence.client] += work.count
            queue.advance(work.sequence, work.count)
    assert abs(served["many"] - served["one"]) <= 8


def test_a_client_that_was_away_does_not_save_up_turns() -> None:
    queue = scheduler(blocks=600)
    queue.add(prompt(100, 10, "there"))
    for _ in range(6):
        run(queue, 8)
    queue.add(prompt(100, 20, "back"))
    steps = [counts(run(queue, 8)) for _ in range(8)]
    assert sum(step.get(10, 0) for step in steps) >= 24


def test_the_last_to_come_loses_its_blocks_when_they_run_out_and_goes_on_later() -> None:
    queue = scheduler(blocks=4)
    first, last = prompt(6, 10), prompt(6, 20)
    queue.add(first, last)
    run(queue, 32)
    assert [each.state for each in (first, last)] == [State.RUNNING] * 2
    for _ in range(3):
        run(queue, 32)
    assert last.state is State.WAITING
    assert queue.preemptions == last.preemptions == 1
    queue.finish(first)
    run(queue, 32)
    assert queue.running == [last]
    assert last.num_missing == 1


def test_a_sequence_alone_without_room_ends() -> None:
    queue = scheduler(blocks=2, context=100)
    queue.add(prompt(6, 10))
    for _ in range(3):
        run(queue, 32)
    assert queue.schedule(32).out_of_room == queue.running


def test_no_more_run_than_may() -> None:
    queue = scheduler(max_sequences=2)
    queue.add(*(prompt(3, first) for first in (10, 20, 30)))
    assert set(counts(run(queue, 99))) == {10, 20}
    queue.finish(queue.running[0])
    assert 30 in counts(run(queue, 99))


def test_a_full_queue_refuses_all_or_nothing() -> None:
    queue = scheduler(max_waiting=2)
    queue.add(prompt(3))
    with pytest.raises(BusyError, match="1 requests are waiting and at most 2 may"):
        queue.add(prompt(3), prompt(3))
    assert len(queue.waiting) == 1


@pytest.mark.parametrize(
    ("tokens", "error"), [([], "prompt is empty"), ([1] * 200, "200 tokens.*holds 128")]
)
def test_prompts_that_can_never_run_are_refused(tokens: list[int], error: str) -> None:
    with pytest.raises(RequestError, match=error):
        scheduler().add(Sequence(tokens, len(tokens)))


def test_a_prompt_known_to_the_cache_computes_only_its_last_token() -> None:
    queue = scheduler()
    first = prompt(9)
    queue.add(first)
    run(queue, 32)
    queue.finish(first)
    again = prompt(9)
    queue.add(again)
    step = queue.schedule(32)
    queue.copied()
    assert [work.count for work in step.works] == [1]
    assert again.num_cached == 8


def test_siblings_wait_for_the_prompt_that_they_share() -> None:
    queue = scheduler()
    leader = prompt(16)
    queue.add(leader, *(Sequence(list(leader.tokens), 16, leader=leader) for _ in range(2)))
    assert [len(run(queue, 8).works) for _ in range(2)] == [1, 1]
    step = run(queue, 64)
    assert sorted(work.count for work in step.works) == [1, 1, 1]


def test_cells_of_the_scores_bound_a_chunk() -> None:
    limits = Limits(8, 100, 128, score_cells=16 * 8)
    queue = Scheduler(LatentCache(64, BLOCK), limits)
    queue.add(prompt(60))
    sizes: list[int] = []

    def rows(queue: Scheduler) -> int:
        seen = queue.cache.blocks_for(queue.running[0].num_computed)
        return (max(queue.running[0].table.blocks[:seen]) + 1) * BLOCK

    while not sizes or queue.running[0].num_computed < 60:
        step = run(queue, 32)
        assert step.num_tokens == 1 or step.num_tokens * rows(queue) <= 16 * 8
        sizes.append(step.num_tokens)
    assert sizes[0] > sizes[-1]


def test_whole_chunks_are_the_same_whatever_else_runs() -> None:
    limits = Limits(1, 100, 128, score_cells=1 << 30, chunk=8)
    queue = Scheduler(LatentCache(64, BLOCK, shares_prefixes=False), limits)
    queue.add(prompt(20))
    assert [run(queue, budget).num_tokens for budget in (3, 99, 1, 1)] == [8, 8, 4, 1]


@settings(max_examples=60)
@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 3), st.sampled_from("abc")), max_size=12
    ),
    blocks=st.integers(6, 20),
    budget=st.integers(1, 40),
    answers=st.integers(1, 6),
    cancels=st.sets(st.integers(0, 11), max_size=4),
)
def test_every_sequence_ends_and_every_block_comes_back(
    prompts: list[tuple[int, int, str]],
    blocks: int,
    budget: int,
    answers: int,
    cancels: set[int],
) -> None:
    queue = scheduler(blocks, max_sequences=4, context=blocks * BLOCK)
    sequences = [
        Sequence([first] * length, length, client=client) for length, first, client in prompts
    ]
    waiting: Iterator[Sequence] = iter(sequences)
    for number in range(2000):
        following = next(waiting, None)
        if following is not None:
            queue.add(following)
        if number in cancels and number < len(sequences) and sequences[number].arrival:
            queue.finish(sequences[number])
        step = run(queue, budget)
        assert step.num_tokens <= max(budget, len(queue.running))
        for sequence in list(queue.running):
            if len(sequence.tokens) - sequence.num_prompt >= answers:
                queue.finish(sequence)
        if following is None and not queue.has_work:
            break
    assert not queue.has_work
    queue.cache.clear()
    assert queue.cache.num_available == blocks


def test_the_chunk_shrinks_to_the_wanted_gap() -> None:
    pace = Pace(512, 0.1)
    assert pace.budget(is_decoding=True) == 512
    for _ in range(40):
        pace.note(100, 0.1)
    assert pace.budget(is_decoding=True) == 96
    assert pace.budget(is_decoding=False) == 512
    assert pace.seconds_for(1000) == pytest.approx(1.0, rel=0.01)
