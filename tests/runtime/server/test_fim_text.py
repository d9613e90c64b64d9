from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from trtcoder.prompting.line_ends import LineEnds
from trtcoder.runtime.server.fim.middle import Middle
from trtcoder.runtime.server.fim.suffix_overlap import SuffixOverlap
from trtcoder.runtime.server.llama_cpp.line_limits import LineLimits

TEXT = st.text(st.sampled_from("ab)(\n "), max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=6)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


@given(TEXT, TEXT, CUTS)
def test_the_overlap_is_the_longest_end_that_begins_the_suffix(
    text: str, suffix: str, cuts: list[int]
) -> None:
    overlap = SuffixOverlap(suffix)
    seen = ""
    for piece in pieces(text, cuts):
        seen += piece[: overlap.push(piece)]
        if overlap.is_complete:
            break
    assert text.startswith(seen)
    assert suffix.startswith(seen[len(seen) - overlap.length :])
    assert overlap.is_complete or seen == text
    assert 0 <= overlap.repeated() <= overlap.length


@given(TEXT, TEXT, CUTS, st.booleans())
def test_a_middle_does_not_depend_on_how_it_comes(
    text: str, suffix: str, cuts: list[int], windows: bool
) -> None:
    ends = LineEnds(windows)
    found = []
    for parts in ([text], pieces(text, cuts)):
        middle = Middle(suffix, ends, trims=True)
        found.append("".join(middle.push(part) for part in parts) + middle.finish())
    assert found[0] == found[1]
    assert text.startswith(found[0].replace("\r\n", "\n"))


def test_words_are_not_cut_where_they_end_like_the_suffix() -> None:
    for text, suffix, expected in (
        ("max", "x", "max"),
        ("f(x)", "x)", "f("),
        ("g(x)", ")", "g(x)"),  # closed what it opened
        ("x)", ")", "x"),
        ("a\n", "\nb", "a\n"),
        ("total = 0\n    return total", "\n    return total\n", "total = 0"),
        ("abc\nretu", "\nreturn total\n", "abc\nretu"),
    ):
        middle = Middle(suffix, LineEnds(windows=False), trims=True)
        assert middle.push(text) + middle.finish() == expected


@given(st.text(st.sampled_from("ab \n\t"), max_size=40), CUTS, st.integers(0, 3))
def test_lines_keep_their_indentation(text: str, cuts: list[int], indent: int) -> None:
    limits = LineLimits(indent, 0.0)
    found = ""
    for piece in pieces(text, cuts):
        found += limits.push(piece)
        if limits.is_over:
            break
    else:
        found += limits.finish()
    assert text.startswith(found)
    for line in found.split("\n")[1:-1]:
        assert len(line) - len(line.lstrip(" \t")) >= indent
    assert limits.is_over or found == text
