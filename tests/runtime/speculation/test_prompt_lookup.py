from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtcoder.runtime.speculation.acceptance import Acceptance
from trtcoder.runtime.speculation.prompt_lookup import PromptLookup


def lookup(prompt: list[int], answer: list[int] | None = None) -> PromptLookup:
    """Return a lookup that has read a prompt and an answer, token by token."""
    tokens = list(prompt)
    found = PromptLookup(tokens, len(prompt), Acceptance())
    found.read()
    for token in answer or []:
        tokens.append(token)
        found.read()
    return found


def test_what_followed_the_last_three_tokens_is_the_guess() -> None:
    assert lookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).guess(3) == [4, 5, 6]
    assert lookup([1, 2, 3, 4, 5, 6, 9], [1, 2, 3]).guess(2) == [4, 5]


def test_the_last_time_counts_where_there_were_several() -> None:
    assert lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).guess(2) == [5, 1]


def test_nothing_is_guessed_where_the_last_three_tokens_are_new() -> None:
    for prompt in ([1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5, 2, 3]):
        found = lookup(prompt)
        assert not found.has_guess
        assert found.guess(4) == []


def test_a_place_is_followed_beyond_a_token_that_was_changed() -> None:
    copied = lookup([1, 2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4, 77])
    assert copied.guess(3) == [6, 7, 8]
    assert copied.length == 0
    copied = lookup([1, 2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4, 77, 6, 7])
    assert copied.guess(2) == [8, 9]
    assert copied.length == 2


def test_what_repeats_itself_is_guessed_to_go_on() -> None:
    assert lookup([1, 2, 3, 1, 2, 3]).guess(7) == [1, 2, 3, 1, 2, 3, 1]
    assert lookup([5, 5, 5, 5]).guess(4) == [5, 5, 5, 5]


def test_the_length_says_how_much_agreed() -> None:
    assert lookup([9, *range(10, 30), 8, *range(10, 30)]).length == 20
    assert lookup([1, 2, 3, 4], [1, 2, 3]).length == 3


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    answer=st.lists(st.integers(0, 3), max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=4),
)
def test_a_guess_does_not_depend_on_how_often_it_was_asked_for(
    prompt: list[int], answer: list[int], cuts: list[int]
) -> None:
    one_by_one = lookup(prompt, answer)
    tokens = list(prompt)
    found = PromptLookup(tokens, len(prompt), Acceptance())
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
        tokens += answer[start:end]
        found.read()
    assert found.guess(8) == one_by_one.guess(8)
    assert found.length == one_by_one.length
    # What is guessed stood behind what now stands at the end.
    if found.length >= 3:
        tail = tokens[-3:]
        places = [i for i in range(3, len(tokens)) if tokens[i - 3 : i] == tail]
        assert found.guess(1)[0] in {tokens[place] for place in places}
