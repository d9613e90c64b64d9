from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.prompting.line_ends import LineEnds

TEXTS = st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\r", " "])).map("".join)


@pytest.mark.parametrize(
    ("texts", "windows"),
    [
        (("a\r\nb\r\n",), True),
        (("a\r\n", "b"), True),
        (("a", "\r\nb"), True),
        (("a",), False),
        (("",), False),
        (("a\nb\n",), False),
        (("a\r\nb\n",), False),
        (("a\r\n", "b\n"), False),
        (("a\rb\r",), False),
        (("a\r\nb\r",), False),
        (("a\r\r\n",), False),
        (("a\r", "\nb\r\n"), False),
    ],
)
def test_a_text_is_of_windows_if_all_its_lines_are(texts: tuple[str, ...], windows: bool) -> None:
    assert LineEnds.of(*texts).windows == windows


@given(before=TEXTS, after=TEXTS)
def test_what_is_put_back_is_the_text(before: str, after: str) -> None:
    ends = LineEnds.of(before, after)
    for text in (before, after):
        seen = ends.for_model(text)
        assert "\r" not in seen or not ends.windows
        assert LineEnds(ends.windows).restored(seen) == text


@given(answer=TEXTS, cuts=st.lists(st.integers(0, 40)), windows=st.booleans())
def test_an_answer_ends_its_lines_alike_however_it_is_cut(
    answer: str, cuts: list[int], windows: bool
) -> None:
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[start:end] for start, end in itertools.pairwise(places)]
    ends = LineEnds(windows)
    found = "".join(ends.restored(piece) for piece in ["", *pieces])
    assert found == LineEnds(windows).restored(answer)
    if windows:
        assert found.replace("\r\n", "").count("\n") == 0
        assert found.replace("\r\n", "\n") == answer.replace("\r\n", "\n")
    else:
        assert found == answer
