from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trtcoder.runtime.cache.block_pool import BlockPool
from trtcoder.runtime.cache.block_table import BlockTable
from trtcoder.runtime.cache.latent_cache import LatentCache

BLOCK = 4


class Holder:
    """A sequence as the cache sees it."""

    def __init__(self, salt: str, tokens: list[int]) -> None:
        self.salt, self.tokens = salt, tokens
        self.table = BlockTable()
        self.published = 0


def computed(cache: LatentCache, salt: str, tokens: list[int]) -> Holder:
    """Compute and publish ``tokens``, sharing what is known."""
    holder = Holder(salt, tokens)
    prefix = cache.find(salt, tokens)
    cache.share(prefix, holder.table)
    holder.published = len(prefix.nodes)
    while len(holder.table) < cache.blocks_for(len(tokens)):
        holder.table.append(cache.allocate())
    holder.published = cache.publish(salt, tokens, holder.table, holder.published)
    return holder


def end(cache: LatentCache, holder: Holder) -> None:
    cache.publish_tail(holder.salt, holder.tokens, holder.table)
    cache.release_table(holder.table)


def known(cache: LatentCache, tokens: list[int], salt: str = "") -> int:
    return cache.find(salt, tokens).num_tokens(BLOCK)


def test_free_blocks_are_handed_out_lowest_first() -> None:
    pool = BlockPool(3)
    assert [pool.allocate() for _ in range(3)] == [0, 1, 2]
    pool.release(1)
    pool.release(0)
    assert pool.allocate() == 0
    with pytest.raises(ValueError, match="block 1 is free"):
        pool.release(1)


def test_a_prefix_is_found_token_by_token() -> None:
    cache = LatentCache(8, BLOCK)
    end(cache, computed(cache, "", [1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert known(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]) == 9
    assert known(cache, [1, 2, 3, 4, 5, 6, 0]) == 6
    assert known(cache, [1, 2, 3, 0]) == 3
    assert known(cache, [0, 2, 3]) == 0


def test_a_salt_shares_nothing_with_another() -> None:
    cache = LatentCache(8, BLOCK)
    end(cache, computed(cache, "a", [1, 2, 3, 4, 5]))
    assert known(cache, [1, 2, 3, 4, 5], "b") == 0
    assert known(cache, [1, 2, 3, 4, 5], "a") == 5


def test_whole_blocks_are_shared_and_the_last_one_is_copied() -> None:
    cache = LatentCache(8, BLOCK)
    first = computed(cache, "", [1, 2, 3, 4, 5, 6])
    second = computed(cache, "", [1, 2, 3, 4, 5, 6])
    assert first.table.blocks[0] == second.table.blocks[0]
    assert first.table.blocks[1] != second.table.blocks[1]


def test_sequences_that_compute_the_same_end_with_one_copy() -> None:
    cache = LatentCache(8, BLOCK)
    one, two = Holder("", [1, 2, 3, 4]), Holder("", [1, 2, 3, 4])
    for holder in (one, two):
        holder.table.append(cache.allocate())
    for holder in (one, two):
        cache.publish("", holder.tokens, holder.table, 0)
    assert one.table.blocks == two.table.blocks
    assert two.table.row[0] == one.table.blocks[0]
    assert cache.num_available == 7


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    cache = LatentCache(3, BLOCK)
    for start in (10, 20, 30):
        end(cache, computed(cache, "", [start, 1, 1, 1]))
    end(cache, computed(cache, "", [10, 1, 1, 1]))  # used again
    cache.allocate()
    assert [known(cache, [start, 1, 1, 1]) for start in (10, 20, 30)] == [4, 0, 4]


def test_the_end_of_a_prefix_is_forgotten_before_its_beginning() -> None:
    cache = LatentCache(3, BLOCK)
    end(cache, computed(cache, "", list(range(12))))
    cache.allocate()
    assert known(cache, list(range(12))) == 8


def test_nothing_is_shared_where_sharing_is_off() -> None:
    cache = LatentCache(3, BLOCK, shares_prefixes=False)
    end(cache, computed(cache, "", list(range(9))))
    assert known(cache, list(range(9))) == 0
    assert cache.num_available == 3


class Cache(RuleBasedStateMachine):
    """Sequences come, grow and go in any order; what is found is always right."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = LatentCache(12, BLOCK)
        self.holders: list[Holder] = []
        # What each row holds: the whole prefix that it stands for.
        self.rows: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}

    @rule(
        salt=st.sampled_from(["", "x"]),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=18),
    )
    def begin(self, salt: str, tokens: list[int]) -> None:
        prefix = self.cache.find(salt, tokens)
        if self.cache.num_needed(prefix, len(tokens)) > self.cache.num_available:
            return
        holder = Holder(salt, tokens)
        self.cache.share(prefix, holder.table)
        holder.published = len(prefix.nodes)
        start = len(prefix.nodes) * BLOCK
        for position in range(start):
            place = holder.table.blocks[position // BLOCK], position % BLOCK
            assert self.rows[place] == (salt, tuple(tokens[: position + 1]))
        if prefix.tail is not None:
            source = self.cache.pin(prefix.tail)
            holder.table.append(self.cache.allocate())
            for offset in range(prefix.tail_tokens):
                held = self.rows[source, offset]
                assert held == (salt, tuple(tokens[: start + offset + 1]))
                self.rows[holder.table.blocks[-1], offset] = held
            self.cache.release(source)
        self.write(holder, start + prefix.tail_tokens)
        self.holders.append(holder)

    def write(self, holder: Holder, start: int) -> None:
        while len(holder.table) < self.cache.blocks_for(len(holder.tokens)):
            holder.table.append(self.cache.allocate())
        for position in range(start, len(holder.tokens)):
            place = holder.table.blocks[position // BLOCK], position % BLOCK
            self.rows[place] = (holder.salt, tuple(holder.tokens[: position + 1]))
        holder.published = self.cache.publish(
            holder.salt, holder.tokens, holder.table, holder.published
        )

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def grow(self, data: st.DataObject, more: list[int]) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        total = self.cache.blocks_for(len(holder.tokens) + len(more))
        if total - len(holder.table) > self.cache.num_available:
            return
        start = len(holder.tokens)
        holder.tokens = holder.tokens + more
        self.write(holder, start)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        end(self.cache, holder)

    @rule()
    def clear(self) -> None:
        self.cache.clear()

    @invariant()
    def references_add_up(self) -> None:
        self.cache.check([holder.table.blocks for holder in self.holders])

    @invariant()
    def every_sequence_has_its_rows(self) -> None:
        for holder in self.holders:
            for position in range(len(holder.tokens)):
                place = holder.table.blocks[position // BLOCK], position % BLOCK
                assert self.rows[place] == (holder.salt, tuple(holder.tokens[: position + 1]))


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=12))
def test_the_longest_common_prefix_is_found(prompts: list[list[int]]) -> None:
    cache = LatentCache(64, BLOCK)
    for tokens in prompts[:-1]:
        end(cache, computed(cache, "", tokens))

    def common(one: list[int], two: list[int]) -> int:
        count = 0
        while count < min(len(one), len(two)) and one[count] == two[count]:
            count += 1
        return count

    if prompts:
        expected = max((common(prompts[-1], each) for each in prompts[:-1]), default=0)
        assert known(cache, prompts[-1]) == expected
