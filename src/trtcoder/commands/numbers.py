"""Numbers that options take: finite, and within bounds."""

from __future__ import annotations

import math
import os

import click

from trtcoder.errors import RequestError

TOKENS = click.IntRange(min=1)
SEED = click.IntRange(min=0)
# More threads than a machine has only wait for one another; a small machine may try a few.
_MOST_THREADS = max(64, os.cpu_count() or 1)


def few_threads(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    """Return how many threads to start; the callback of their option.

    Raises:
        RequestError: many more than this machine can run, which would take minutes to start.
    """
    if value is not None and value > _MOST_THREADS:
        raise RequestError(
            f"{option.opts[0]}: {value:,} are more than this machine can run; give at most "
            f"{_MOST_THREADS}, or leave it out"
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
