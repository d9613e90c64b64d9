"""What reaches a terminal, a page or a program's standard input."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from trtcoder.plain_json import dumps
from trtcoder.printable import printable, printable_line
from trtcoder.tables import render_table

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def obeyed(text: str) -> list[str]:
    """Return the characters that a terminal would obey, but newlines and tabs."""
    return [
        letter
        for letter in text
        if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"
    ]


@given(ANY_TEXT)
def test_what_is_printed_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    assert not obeyed(printable(text))
    line = printable_line(text)
    assert not obeyed(line)
    assert len(line.splitlines()) <= 1
    assert "\t" not in line


def test_the_direction_of_text_cannot_be_turned() -> None:
    assert printable("a\u202eb\u2066c") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert printable("déjà 写 🙂") == "déjà 写 🙂"


@given(VALUES)
def test_json_is_read_by_strict_readers_and_obeyed_by_no_terminal(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = dumps(value)
    assert not obeyed(text)
    text.encode()
    read = json.loads(text, parse_constant=refuse)
    if isinstance(value, float):
        assert read == (value if math.isfinite(value) else None)
    if isinstance(value, str):
        assert read == value


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, st.integers()), min_size=1, max_size=5))
@example([("", "\U0001f3fb", 0)])  # takes no place alone
def test_a_table_keeps_its_cells_and_has_a_line_for_each_row(
    rows: list[tuple[str, str, int]],
) -> None:
    table = render_table([[a, b, f"{c:,}"] for a, b, c in rows], left=(0, 1))
    lines = table.splitlines()
    assert len(lines) == len(rows)
    assert not obeyed(table)
    for line, (first, second, number) in zip(lines, rows, strict=True):
        assert line.endswith(f"{number:,}")
        for cell in (first, second):
            assert "".join(printable_line(cell).split()) in "".join(line.split())
