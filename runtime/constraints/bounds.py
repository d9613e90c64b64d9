"""What a constraint may not ask for, since its cost has no other bound.

llguidance bounds what it builds by the work that it does, except for multiples: an automaton that
counts modulo n has n states, however it is asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from trtcoder.errors import RequestError

# Characters of all grammars of a constraint together, as JSON.
MAX_SIZE = 1 << 20
# llama.cpp's grammars are read in Python, letter by letter: this takes a quarter of a second.
MAX_GBNF = 1 << 16
_MAX_STATES = 20_000
# Values, which hold no keywords.
_DATA = frozenset({"const", "enum", "default", "examples"})


def check(grammars: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuse what would cost more than a request may.

    Raises:
        RequestError: a grammar is too large, or counts by too large a number; names ``source``.
    """
    multiple = Fraction(1)
    for grammar in grammars:
        if len(grammar.get("gbnf", "")) > MAX_GBNF:
            raise RequestError(f"{source}: the grammar is longer than {MAX_GBNF:,} characters")
        for found in _multiples(grammar.get("json_schema")):
            multiple = _common(multiple, found)
        for schema in _inline(grammar.get("lark_grammar", "")):
            for found in _multiples(schema):
                multiple = _common(multiple, found)
    if multiple.numerator > _MAX_STATES:
        raise RequestError(
            f"{source}: the values of multipleOf have a common multiple above {_MAX_STATES:,}; "
            "leave them out"
        )


def _multiples(schema: Any) -> Iterator[Fraction]:
    """Yield the values of ``multipleOf`` anywhere in a schema."""
    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            waiting += [value for key, value in each.items() if key not in _DATA]
            value = each.get("multipleOf")
            if isinstance(value, int | float) and math.isfinite(value) and value > 0:
                yield Fraction(str(value) if isinstance(value, float) else value)


def _inline(lark: str) -> Iterator[Any]:
    """Yield the schemas that stand in a grammar; llguidance refuses malformed ones."""
    for match in re.finditer(r"%json\s*", lark):
        try:
            yield json.JSONDecoder().raw_decode(lark, match.end())[0]
        except (ValueError, RecursionError):
            continue


def _common(one: Fraction, other: Fraction) -> Fraction:
    return Fraction(
        math.lcm(one.numerator, other.numerator), math.gcd(one.denominator, other.denominator)
    )
