"""Progress bars on standard error: amount done, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]


@contextmanager
def byte_progress(title: str, total: int, *, shown: bool = True) -> Iterator[Advance]:
    """Show a bar over ``total`` bytes; the yielded function adds bytes and names the item."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[item]}"),
        console=Console(stderr=True),
        disable=not shown,
    )
    with progress:
        task = progress.add_task(title, total=total, item="")

        def advance(amount: int, item: str) -> None:
            progress.update(task, advance=amount, item=item)

        yield advance


@contextmanager
def step_progress(title: str, total: int, *, shown: bool = True) -> Iterator[Advance]:
    """Show a bar over ``total`` steps; the yielded function adds steps and names the item."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[item]}"),
        console=Console(stderr=True),
        disable=not shown,
    )
    with progress:
        task = progress.add_task(title, total=total, item="")

        def advance(amount: int, item: str) -> None:
            progress.update(task, advance=amount, item=item)

        yield advance
