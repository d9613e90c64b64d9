from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.runtime.cache.blocks import BlockTable, LatentCache


@given(
    num_blocks=st.integers(1, 12),
    block_size=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["append", "truncate", "free"]),
                  st.integers(0, 20)),
        max_size=40,
    ),
)  # fmt: skip
def test_no_block_has_two_owners_and_freed_blocks_return(
    num_blocks: int, block_size: int, steps: list[tuple[int, str, int]]
) -> None:
    cache = LatentCache(num_blocks, block_size)
    tables = [BlockTable(cache) for _ in range(3)]
    for index, action, amount in steps:
        table = tables[index]
        before = (list(table.blocks), table.num_tokens)
        if action == "append":
            needed = -(-(table.num_tokens + amount) // block_size) - len(table.blocks)
            fits = needed <= cache.num_free_blocks
            assert table.append(amount) is fits
            if not fits:
                assert (table.blocks, table.num_tokens) == before
        elif action == "truncate":
            table.truncate(min(amount, table.num_tokens))
        else:
            table.free()
        owned = [block for each in tables for block in each.blocks]
        assert len(set(owned)) == len(owned)
        assert len(owned) + cache.num_free_blocks == num_blocks
        assert cache.rows_in_view == (max(owned, default=-1) + 1) * block_size
        for each in tables:
            assert len(each.blocks) == -(-each.num_tokens // block_size)
            rows = each.rows(0, each.num_tokens)
            assert [row // block_size for row in rows[::block_size]] == each.blocks
            assert all(row % block_size == i % block_size for i, row in enumerate(rows))
    for table in tables:
        table.free()
    assert cache.num_free_blocks == num_blocks
    assert cache.rows_in_view == 0


def test_one_sequence_gets_ascending_blocks_so_that_the_view_stays_small() -> None:
    cache = LatentCache(num_blocks=8, block_size=4)
    table = BlockTable(cache)
    for length in range(1, 20):
        assert table.append(1)
        assert table.blocks == list(range(-(-length // 4)))
        assert cache.rows_in_view == len(table.blocks) * 4
    np.testing.assert_array_equal(table.rows(2, 7), [2, 3, 4, 5, 6])


def test_a_freed_block_is_the_next_one_handed_out() -> None:
    cache = LatentCache(num_blocks=4, block_size=2)
    first, second = BlockTable(cache), BlockTable(cache)
    first.append(4)
    second.append(2)
    first.free()
    second.append(4)
    assert second.blocks == [2, 0, 1]
    np.testing.assert_array_equal(second.rows(0, 6), [4, 5, 0, 1, 2, 3])


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="0 blocks"):
        LatentCache(0, 4)
    cache = LatentCache(2, 4)
    with pytest.raises(ValueError, match="block 0 is not in use"):
        cache.free(0)
    table = BlockTable(cache)
    table.append(3)
    with pytest.raises(ValueError, match="cannot truncate 3 tokens to 4"):
        table.truncate(4)
    with pytest.raises(ValueError, match="tokens 0 to 4 of 3"):
        table.rows(0, 4)
