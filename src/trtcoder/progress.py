"""Progress on standard error: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from trtcoder.printable import printable_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

Advance = Callable[[int, str], None]
Show = Callable[[float], str]

# Seconds before the first line of a log, and between further ones: what is quick leaves none.
FIRST_LINE, NEXT_LINE = 10.0, 30.0


@contextmanager
def byte_progress(title: str, total: int) -> Iterator[Advance]:
    """Show progress over ``total`` bytes; the yielded function adds bytes and names the item."""
    with _progress(title, total, unit="bytes", transient=False) as advance:
        yield advance


@contextmanager
def step_progress(
    title: str, total: int, *, unit: str = "", transient: bool = False
) -> Iterator[Advance]:
    """Show progress over ``total`` steps; the yielded function adds steps and names the item.

    ``unit`` names a step where the title does not; a ``transient`` bar leaves nothing behind.
    """
    with _progress(title, total, unit=unit, transient=transient) as advance:
        yield advance


@contextmanager
def _progress(title: str, total: int, *, unit: str, transient: bool) -> Iterator[Advance]:
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with bar(title, total, unit=unit, transient=transient) as advance:
            yield advance
    else:
        yield LogLines(title, total, unit)


@contextmanager
def bar(
    title: str, total: int, *, unit: str, transient: bool = False, console: Console | None = None
) -> Iterator[Advance]:
    """Show a bar of one line, however narrow the terminal is."""
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    amounts: list[ProgressColumn] = (
        [rich.DownloadColumn(), rich.TransferSpeedColumn()]
        if unit == "bytes"
        else [rich.MofNCompleteColumn(), rich.TextColumn(unit, markup=False)]
    )
    for column in amounts:
        column._table_column = Column(no_wrap=True)
    shown = rich.Progress(
        rich.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        rich.BarColumn(bar_width=12),
        *amounts,
        rich.TimeRemainingColumn(table_column=Column(no_wrap=True)),
        # What room is left; a long name is cut rather than the bar broken in two.
        rich.TextColumn(
            "{task.fields[item]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=console or Console(stderr=True, highlight=False, emoji=False),
        expand=True,
        transient=transient,
    )
    with shown:
        task = shown.add_task(title, total=total, item="")

        def advance(amount: int, item: str) -> None:
            shown.update(task, advance=amount, item=printable_line(item))

        yield advance


class LogLines:
    """Says how far something has come, in a line that a log can keep."""

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._done = 0
        self._started = clock()
        self._due = self._started + FIRST_LINE

    def __call__(self, amount: int, item: str) -> None:
        """Add ``amount``; a line is written when one is due."""
        self._done += amount
        now = self._clock()
        if now < self._due or sys.stderr is None:
            return
        self._due = now + NEXT_LINE
        with suppress(OSError):  # a log that is full
            line = printable_line(self._line(now - self._started, item))
            print(line, file=sys.stderr, flush=True)

    def _line(self, seconds: float, item: str) -> str:
        done, total = min(self._done, self._total), self._total
        if self._unit == "bytes":
            amounts = f"{done / 1e9:,.1f} of {total / 1e9:,.1f} GB"
        else:
            amounts = f"{done:,} of {total:,} {self._unit}".rstrip()
        left = f", {duration(seconds * (total - done) / done)} left" if done else ""
        share = f"{done / total:.0%}, " if total else ""
        return f"{self._title}: {share}{amounts}{left}{f'; {item}' if item else ''}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would take."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
