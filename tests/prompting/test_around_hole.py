from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy_engine import byte_tokenizer, toy_manifest
from trtcoder.errors import RequestError
from trtcoder.prompting.around_hole import around_hole
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(byte_tokenizer())
PROMPTS = Prompts(toy_manifest(), TOKENIZER)
AROUND = len(PROMPTS.fim("", ""))
TEXT = st.lists(st.text(st.sampled_from("ab é写"), max_size=9), max_size=12).map("\n".join)


@given(TEXT, TEXT, st.integers(1, 80))
def test_what_is_kept_fits_and_stands_next_to_the_hole(
    prefix: str, suffix: str, budget: int
) -> None:
    room = AROUND + budget
    found = around_hole(PROMPTS, TOKENIZER, prefix, suffix, room)
    assert len(PROMPTS.fim(found.prefix, found.suffix)) <= room
    assert prefix.endswith(found.prefix)
    assert suffix.startswith(found.suffix)
    fits = len(PROMPTS.fim(prefix, suffix)) <= room
    assert fits == (not found.is_cut)
    if fits:
        assert (found.prefix, found.suffix) == (prefix, suffix)


def test_whole_lines_are_kept_and_most_of_them_before_the_hole() -> None:
    lines = "".join(f"line {number:02d}\n" for number in range(40))  # 8 tokens each
    found = around_hole(PROMPTS, TOKENIZER, lines, lines, AROUND + 100)
    assert found.prefix == "".join(f"line {number:02d}\n" for number in range(31, 40))
    assert found.suffix == "".join(f"line {number:02d}\n" for number in range(3))
    assert found.tokens == (320, 320)
    assert found.kept == (72, 24)
    # Where little stands on one side, the other gets its room.
    assert around_hole(PROMPTS, TOKENIZER, "x", lines, AROUND + 100).kept == (1, 96)
    assert around_hole(PROMPTS, TOKENIZER, lines, "x", AROUND + 100).kept == (96, 1)


def test_a_line_that_is_too_long_is_cut_at_a_character() -> None:
    found = around_hole(PROMPTS, TOKENIZER, "é" * 50, "写" * 50, AROUND + 40)
    assert found.prefix == "é" * 15
    assert found.suffix == "写" * 3


def test_no_room_is_refused() -> None:
    with pytest.raises(RequestError, match="control tokens"):
        around_hole(PROMPTS, TOKENIZER, "a", "b", AROUND)


@given(
    st.lists(st.text(st.sampled_from("ab "), max_size=9), min_size=1, max_size=60),
    st.integers(20, 120),
)
def test_a_steady_cut_fits_and_is_at_a_lines_start(lines: list[str], budget: int) -> None:
    text = "".join(f"{line}\n" for line in lines)
    starts = []
    for end in range(len(text) + 1):
        found = around_hole(PROMPTS, TOKENIZER, text[:end], "x", AROUND + budget, steady=True)
        assert text[:end].endswith(found.prefix)
        assert len(PROMPTS.fim(found.prefix, found.suffix)) <= AROUND + budget
        starts.append(end - len(found.prefix))
    assert all(not start or text[start - 1] == "\n" for start in starts)


def test_a_steady_cut_moves_seldom() -> None:
    text = "".join(f"line {number * number % 97:02d}\n" for number in range(200))
    cuts = {
        around_hole(PROMPTS, TOKENIZER, text[:end], "x", AROUND + 200, steady=True).prefix[:24]
        for end in range(800, len(text), 4)
    }
    assert len(cuts) < 60  # 100 lines go by
