"""Finds the final answer of a worked solution, and compares it with the expected one."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
# What changes how a formula looks and not what it says.
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])|\\[!,;: ]|\\\$|\$|\\%|%|\^\{?\\circ\}?"
    r"|(?<=[\d}])\s*\\(?:text|mathrm|textbf|mbox)\{[^{}]*\}\s*$"
)
_UNWRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mbox|mathbf)\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*([^\s{}\\])\s*([^\s{}\\])")
_FRACTION = re.compile(r"(-?)\\frac\{(-?[\d.]+)\}\{(-?[\d.]+)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def boxed(text: str) -> str | None:
    r"""Return what stands in the last ``\boxed{…}``, braces balanced; None without one."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    place = text.find("{", start)
    if place < 0:
        words = text[start:].split(None, 1)
        return words[1].split("$")[0].strip() if len(words) > 1 else None
    depth = 0
    for end in range(place, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[place + 1 : end]
    return None


def last_number(text: str) -> str | None:
    """Return the last number of a text; None without one."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def same_number(found: str | None, expected: str) -> bool:
    """Tell whether a text is a number of the expected value; separators do not matter."""
    number, other = (None if each is None else _value(each) for each in (found, expected))
    return number is not None and number == other


def same_formula(found: str | None, expected: str) -> bool:
    """Tell whether two formulas say the same, as far as their spelling tells."""
    if found is None:
        return False
    one, other = plain_formula(found), plain_formula(expected)
    if one == other:
        return True
    number, value = _value(one), _value(other)
    return number is not None and number == value


def plain_formula(text: str) -> str:
    """Return a formula in one of the ways that it can be spelled."""
    text = text.strip().rstrip(".")
    text = text.replace("dfrac", "frac").replace("tfrac", "frac").replace("\\{", "{")
    text = _DROPPED.sub("", text.replace("\\}", "}"))
    text = _UNWRAPPED.sub(r"\1", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*([^\s{}\\\[])", r"\\sqrt{\1}", text)
    # `x = 5` and `5` are one answer.
    text = re.sub(r"^\s*[a-zA-Z]\w?\s*=\s*", "", text)
    text = _THOUSANDS.sub("", text)
    return re.sub(r"\s+", "", text).rstrip(".")


def _value(text: str) -> Fraction | None:
    plain = _THOUSANDS.sub("", text.strip().strip("$").rstrip(".%"))
    if match := _FRACTION.fullmatch(plain):
        sign, over, under = match.groups()
        plain = f"{sign}{over}/{under}"
    try:
        if "/" in plain:
            over, _, under = plain.rpartition("/")
            return Fraction(over) / Fraction(under)
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None
