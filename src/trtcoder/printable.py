"""Text from files and models, made safe to show: nothing in it is obeyed by a terminal."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1; what turns the direction of text round; half a surrogate pair.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*")


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD for each character that a terminal or page would obey."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_line(text: str) -> str:
    """Return ``text`` as one line: line breaks become spaces, the rest is as `printable` has it."""
    return printable(_BREAKS.sub(" ", text.strip())).replace("\t", " ")
