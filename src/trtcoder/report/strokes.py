"""What drawings share: lines that can be told apart in grey, names at their ends, axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trtcoder.report.canvas import DASHES, MARKERS, SERIES, SMALL
from trtcoder.report.notation import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_line(axes: Axes, index: int, numbers: Sequence[int], values: Sequence[float]) -> None:
    """Draw a line with the colour, dashes and marks of its ``index``."""
    colour = SERIES[index % len(SERIES)]
    axes.plot(
        numbers, values, color=colour, linestyle=DASHES[index % len(DASHES)],
        marker=MARKERS[index % len(MARKERS)], markeredgewidth=0,
    )  # fmt: skip


def name_end(axes: Axes, name: str, numbers: Sequence[int], values: Sequence[float]) -> None:
    """Name a line right of its end."""
    if values and math.isfinite(values[-1]):
        axes.annotate(name, (numbers[-1], values[-1]), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=SMALL)  # fmt: skip


def name_ends(axes: Axes, ends: Mapping[str, tuple[int, float]]) -> None:
    """Name lines right of their ends, in their colours, moved apart where they would overlap."""
    colours = {name: SERIES[index % len(SERIES)] for index, name in enumerate(ends)}
    low, high = axes.get_ylim()
    gap = (high - low) / 14
    height = -math.inf
    right = max(place for place, _ in ends.values())
    for name, (_, value) in sorted(ends.items(), key=lambda item: item[1][1]):
        height = max(value, height + gap)
        axes.annotate(name, (right, height), xytext=(8, 0), textcoords="offset points",
                      va="center", fontsize=SMALL, color=colours[name])  # fmt: skip


def layer_axis(axes: Axes, numbers: Sequence[int]) -> None:
    """Label the horizontal axis with layers, not more than 30 of them."""
    axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
    stride = -(-len(numbers) // 30)
    axes.set_xticks(list(numbers[::stride]))
    axes.set_xlabel("layer")


def small_number(value: float, _position: float = 0) -> str:
    """Return a logarithmic axis' label: a power of ten below 0.001."""
    return number(value, 1).removeprefix("1 × ")
