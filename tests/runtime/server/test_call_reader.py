from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.server.talking import call
from trtcoder.runtime.server.conversation import Said
from trtcoder.runtime.server.tools.reader import Arguments, CallReader, Text
from trtcoder.runtime.server.tools.spelling import CLOSE, OPEN

values = st.recursive(
    st.one_of(
        st.integers(), st.text(max_size=8), st.just("}\n</tool_call>"), st.just("<tool_call>")
    ),
    lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
calls = st.tuples(
    st.sampled_from(["f", "get_x"]), st.dictionaries(st.text(max_size=4), values, max_size=3)
)
texts = st.text("ab <tool_cal\n>é}", max_size=20).filter(lambda text: OPEN not in text)


def read(text: str, cuts: list[int]) -> Said:
    reader, said = CallReader(reads_calls=True), Said()
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        for piece in reader.push(text[start:end]):
            assert not isinstance(piece, Text | Arguments) or piece.text
            said.add(piece)
    for piece in reader.finish():
        said.add(piece)
    return said


@given(texts, st.lists(calls, max_size=3), st.lists(st.integers(0, 10**4), max_size=30))
def test_calls_are_read_the_same_however_the_text_is_cut(
    text: str, wanted: list[tuple[str, dict[str, object]]], cuts: list[int]
) -> None:
    answer = text + "\n".join(call(name, arguments) for name, arguments in wanted)
    said = read(answer, cuts)
    assert said.text == (text.rstrip() if wanted else text)
    assert [(each.name, json.loads(each.arguments)) for each in said.calls] == wanted
    assert len({each.id for each in said.calls}) == len(wanted)


@given(texts, calls, st.integers(0, 200), st.lists(st.integers(0, 10**4), max_size=9))
def test_an_answer_that_is_cut_keeps_what_came(
    text: str, wanted: tuple[str, dict[str, object]], length: int, cuts: list[int]
) -> None:
    whole = call(*wanted)
    said = read(text + whole[:length], cuts)
    assert text.startswith(said.text[: len(text)]) or said.text.startswith(text)
    for found in said.calls:
        assert found.name == wanted[0]
        assert found.arguments in whole


@pytest.mark.parametrize("arguments", [{}, {"a": 40, "b": 2}, {"a": {"b": {}}}, {"a": "}\n</t"}])
@pytest.mark.parametrize("cut", range(1, len(CLOSE)))
def test_a_call_that_is_cut_in_its_end_has_whole_arguments(
    arguments: dict[str, object], cut: int
) -> None:
    said = read(call("f", arguments)[:-cut], [5, 9])
    assert json.loads(said.calls[0].arguments) == arguments


@pytest.mark.parametrize("text", ["", "  \n", "a <tool_cal", f"{OPEN}\n"])
def test_without_tools_everything_is_text(text: str) -> None:
    reader = CallReader(reads_calls=False)
    pieces = [*reader.push(text), *reader.finish()]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == text
