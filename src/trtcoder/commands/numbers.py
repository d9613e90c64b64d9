"""Numbers that options take: finite, and within bounds."""

from __future__ import annotations

import math

import click

from trtcoder.cores import available_cores
from trtcoder.errors import RequestError

TOKENS = click.IntRange(min=1)
SEED = click.IntRange(min=0)
# More threads than may run only wait for one another; a small machine may try a few.
_TRIED_THREADS = 64
_THREADS_PER_CORE = 2


def few_threads(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    """Return how many threads to start; the callback of their option.

    Raises:
        RequestError: many more than this machine can run, which would take minutes to start.
    """
    most = max(_TRIED_THREADS, _THREADS_PER_CORE * available_cores())
    if value is not None and value > most:
        raise RequestError(
            f"{option.opts[0]}: {value:,} are more than this machine can run; give at most "
            f"{most}, or leave it out"
        )
    return value


def above_zero(
    context: click.Context, option: click.Parameter, value: float | None
) -> float | None:
    """Return an option's number; the callback of options that must be finite and above zero.

    Raises:
        RequestError: it is not.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        what = "not above zero" if value <= 0 else "not a finite number"
        raise RequestError(f"{option.opts[0]}: {value} is {what}")
    return value


def capabilities(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Return compute capabilities, such as 86,8.9 for 86 and 89; the callback of their option.

    Raises:
        RequestError: one is no number.
    """
    if value is None:
        return None
    found = [each.strip().replace(".", "") for each in value.split(",")]
    wrong = [each for each in found if not (each.isascii() and each.isdigit())]
    if wrong:
        raise RequestError(
            f"{option.opts[0]}: {value!r} is no list of compute capabilities; give it as 86,89"
        )
    return tuple(sorted(map(int, found)))
