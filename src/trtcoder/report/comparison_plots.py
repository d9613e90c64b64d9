"""Drawings of how far an engine is from its reference; each function returns an SVG element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtcoder.bundle.comparison import Layer, Logits
from trtcoder.report.canvas import BAR, INK, PAPER, SMALL, new_figure, to_svg
from trtcoder.report.notation import number, percent, power_of_ten
from trtcoder.report.strokes import draw_line, layer_axis, name_end, small_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_histogram(logits: Logits) -> str | None:
    """Return how many positions have which KL; None without a histogram."""
    histogram = logits.kl_histogram
    if histogram is None or not any(histogram.counts):
        return None
    used = [index for index, count in enumerate(histogram.counts) if count]
    first, last = used[0], used[-1] + 1
    edges, counts = histogram.edges[first : last + 1], histogram.counts[first:last]
    total = sum(histogram.counts)
    figure, axes = new_figure(2.1)
    widths = [high - low for low, high in itertools.pairwise(edges)]
    axes.bar(
        edges[:-1], [count / total for count in counts], widths, align="edge", color=BAR,
        edgecolor=PAPER, linewidth=0.5,
    )  # fmt: skip
    axes.margins(x=0.01)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.3)
    # Each mark ends below the label of the one before it, so that no line crosses a text.
    marks = [("mean", logits.kl_mean), ("99th percentile", logits.kl_p99), ("max", logits.kl_max)]
    right = edges[-1]
    for step, (name, value) in enumerate(marks):
        if math.isfinite(value) and value > 0:
            place, height = math.log10(value), top * (1.25 - 0.1 * step)
            axes.plot([place, place], [0, height], color=INK, linewidth=0.7)
            axes.annotate(
                f"{name} {number(value)}", (place, height), xytext=(3, 0),
                textcoords="offset points", va="top", fontsize=SMALL,
            )  # fmt: skip
            right = max(right, place + 0.14 * (place - edges[0]))
    _powers_of_ten(axes, edges[0], right)
    axes.set_xlabel("KL of a position, nats")
    axes.yaxis.set_major_formatter(lambda value, _: percent(value, 0))
    axes.set_ylabel("share of positions")
    return to_svg(figure, "kl", "Histogram of the KL of all positions")


def draw_layers(layers: Sequence[Layer]) -> str | None:
    """Return the hidden state's error after each layer; None without layers."""
    if not layers:
        return None
    figure, axes = new_figure(2.1)
    numbers = [layer.layer for layer in layers]
    lines = {
        "largest": [layer.hidden_max for layer in layers],
        "mean": [layer.hidden_mean for layer in layers],
    }
    positive = [value for line in lines.values() for value in line if value > 0]
    if len(positive) == 2 * len(layers) and max(positive) > 20 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(small_number)
    for index, (name, values) in enumerate(reversed(lines.items())):
        draw_line(axes, index, numbers, values)
        name_end(axes, name, numbers, values)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    axes.set_ylabel("relative error")
    layer_axis(axes, numbers)
    return to_svg(figure, "layers", "Relative error of the hidden state by layer")


def draw_routers(layers: Sequence[Layer]) -> str | None:
    """Return the share of tokens that go to the reference's experts; None without experts."""
    routed = [layer for layer in layers if layer.router_agreement is not None]
    shares = [layer.router_agreement or 0.0 for layer in routed]
    if not routed:
        return None
    figure, axes = new_figure(1.7)
    numbers = [layer.layer for layer in routed]
    low = min(shares)
    axes.set_ylim(max(low - max(0.25 * (1 - low), 0.02), 0), 1)
    draw_line(axes, 0, numbers, shares)
    worst = min(range(len(routed)), key=lambda index: shares[index])
    axes.annotate(
        f"lowest {percent(low, 1)}", (numbers[worst], low), xytext=(0, -5),
        textcoords="offset points", ha="center", va="top", fontsize=SMALL,
    )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda value, _: percent(value, 0))
    axes.set_ylabel("same experts")
    layer_axis(axes, [layer.layer for layer in layers])
    return to_svg(figure, "routers", "Share of tokens sent to the same experts by layer")


def _powers_of_ten(axes: Axes, low: float, high: float) -> None:
    exponents = range(math.floor(low), math.ceil(high) + 1)
    stride = -(-len(exponents) // 14)
    axes.set_xticks(list(exponents[::stride]), [power_of_ten(e) for e in exponents[::stride]])
    axes.set_xlim(low - 0.05, high + 0.05)
