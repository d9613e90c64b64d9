"""Progress bars on standard error: amount done, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Advance = Callable[[int, str], None]


@contextmanager
def byte_progress(title: str, total: int) -> Iterator[Advance]:
    """Show a bar over ``total`` bytes; the yielded function adds bytes and names the item."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _progress(title, total, DownloadColumn(), TransferSpeedColumn()) as advance:
        yield advance


@contextmanager
def step_progress(title: str, total: int) -> Iterator[Advance]:
    """Show a bar over ``total`` steps; the yielded function adds steps and names the item."""
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    with _progress(title, total, MofNCompleteColumn(), TimeElapsedColumn()) as advance:
        yield advance


@contextmanager
def _progress(title: str, total: int, *columns: ProgressColumn) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[item]}"),
        console=Console(stderr=True),
    )
    with progress:
        task = progress.add_task(title, total=total, item="")
        yield lambda amount, item: progress.update(task, advance=amount, item=item)
