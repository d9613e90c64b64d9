"""How numbers are written, on the page and in the table."""

from __future__ import annotations

import math

# A value that JSON could not hold: the certificate has null, the reader NaN.
NOT_FINITE = "not finite"
NONE = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def number(value: float | None, digits: int = 3) -> str:
    """Return a measured value with ``digits`` significant digits, and a count with all of them."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return NOT_FINITE
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"  # a count
    # Rounded first: 0.00099999 is 0.001 and not 1.00e-03.
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if not -3 <= exponent < 5:
        mantissa = f"{value:.{digits - 1}e}".partition("e")[0]
        return f"{mantissa} × 10{str(exponent).translate(_SUPERSCRIPTS)}"
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}"


def gate(value: float | None, name: str) -> str:
    """Return a gate's value or limit: a share in percent, anything else as a number."""
    return percent(value) if name.startswith("share of") else number(value)


def fixed(value: float | None, decimals: int) -> str:
    """Return a value with as many decimals as its column; `NONE` for None."""
    if value is None:
        return NONE
    return f"{value:,.{decimals}f}" if math.isfinite(value) else NOT_FINITE


def percent(share: float | None, decimals: int = 2) -> str:
    """Return a share as a percentage."""
    if share is None:
        return NONE
    return f"{share:.{decimals}%}" if math.isfinite(share) else NOT_FINITE


def change(before: float | None, after: float | None) -> str:
    """Return how much larger ``after`` is, in percent with its sign."""
    if before is None or after is None or not before:
        return NONE
    return signed(percent(after / before - 1))


def signed(text: str) -> str:
    """Return a formatted number with its sign, whose minus is as wide as its plus."""
    if text in (NONE, NOT_FINITE):
        return text
    return (text if text[0] in "+-" else f"+{text}").replace("-", "−")


def size(count: int | None) -> str:
    """Return bytes in decimal units, as the README's tables have them."""
    if count is None:
        return NONE
    value, unit = float(count), 0
    while abs(value) >= 999.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:,.1f} {_UNITS[unit]}" if unit else f"{count:,} bytes"


def power_of_ten(exponent: int) -> str:
    """Return ``10⁻³`` for -3."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"
