"""Tables of text: aligned columns, wrapped to a terminal's width and never cut."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from trtcoder.printable import printable_line

# Where no terminal sets a width, such as in a pipe, nothing is wrapped.
_UNLIMITED = 10_000


def render_table(
    rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), left: Sequence[int] = (0,)
) -> str:
    """Return lines of aligned columns.

    Args:
        rows: cells; every row has as many.
        header: a title for each column.
        left: the columns that are aligned left and may be wrapped; others are aligned right.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=bool(header), padding=(0, 2, 0, 0), pad_edge=False)
    for index in range(len(rows[0]) if rows else len(header)):
        is_left = index in left
        table.add_column(
            printable_line(header[index]) if header else "",
            justify="left" if is_left else "right",
            min_width=1,  # without one, cells of characters that take no place alone are lost
            no_wrap=not is_left or index == 0,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(printable_line, row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED
    console = Console(
        width=width, color_system=None, force_terminal=False, markup=False, highlight=False,
        emoji=False,
    )  # fmt: skip
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
