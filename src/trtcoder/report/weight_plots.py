"""Drawings of how an engine's weights are stored; each function returns an SVG element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from trtcoder.bundle.provenance import Coverage, Plan
from trtcoder.report.canvas import (
    BAR,
    DASHES,
    INK,
    MARKERS,
    PAPER,
    SERIES,
    SMALL,
    STEPS,
    WARNING,
    new_figure,
    to_svg,
)
from trtcoder.report.notation import percent, size
from trtcoder.report.strokes import draw_line, layer_axis, name_ends, small_number
from trtcoder.report.tensors import ClassSummary

# Bounds of the coverage's steps, in multiples of the tokens that an expert needs.
COVERAGE_STEPS = (1, 2, 4, 8)
# An axis of ratios is at least this high, or tensors that are alike would look different.
_LEAST_DECIBELS = 3.0


def draw_coverage(coverage: Coverage) -> str | None:
    """Return how many calibration tokens reached each expert; None without experts."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    layers = sorted(coverage.tokens)
    experts = max((len(coverage.tokens[layer]) for layer in layers), default=0)
    if not experts:
        return None
    minimum = max(coverage.minimum, 1)
    cells: dict[int, list[tuple[int, int, int]]] = {step: [] for step in range(len(STEPS))}
    for row, layer in enumerate(layers):
        steps = [
            sum(count >= bound * minimum for bound in COVERAGE_STEPS)
            for count in coverage.tokens[layer]
        ]
        start = 0
        for step, run in itertools.groupby(steps):
            stop = start + len(list(run))
            cells[step].append((row, start, stop))
            start = stop
    figure, axes = new_figure(min(0.9 + 0.14 * len(layers), 6.5))
    for step, runs in cells.items():
        paths = [
            Path([(a, row), (b, row), (b, row + 1), (a, row + 1), (a, row)], closed=True)
            for row, a, b in runs
        ]
        if paths:
            # One element a step, not one a cell: 236B has 9,440.
            axes.add_patch(PathPatch(Path.make_compound_path(*paths), color=STEPS[step], lw=0))
    rows = {layer: row for row, layer in enumerate(layers)}
    short = [(expert + 0.5, rows[layer] + 0.5) for layer, expert, _ in coverage.short
             if layer in rows]  # fmt: skip
    if short:
        axes.plot(*zip(*short, strict=True), "x", color=WARNING, markersize=4, markeredgewidth=1.3)
    for row in range(1, len(layers)):
        axes.axhline(row, color=PAPER, linewidth=0.6)
    axes.set(xlim=(0, experts), ylim=(len(layers), 0), xlabel="expert", ylabel="layer")
    stride = -(-len(layers) // 20)
    axes.set_yticks([row + 0.5 for row in range(0, len(layers), stride)],
                    [str(layer) for layer in layers[::stride]])  # fmt: skip
    wide = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if experts / step <= 20)
    axes.set_xticks([e + 0.5 for e in range(0, experts, wide)],
                    [str(e) for e in range(0, experts, wide)])  # fmt: skip
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    return to_svg(figure, "coverage", "Calibration tokens by layer and expert")


def draw_sizes(classes: Sequence[ClassSummary]) -> str | None:
    """Return the bytes of each class; None without tensors."""
    if not classes:
        return None
    figure, axes = new_figure(0.35 + 0.22 * len(classes))
    places = range(len(classes))
    axes.barh(places, [summary.bytes for summary in classes], 0.66, color=BAR)
    total = sum(summary.bytes for summary in classes) or 1
    for place, summary in zip(places, classes, strict=True):
        label = f"{size(summary.bytes)}, {percent(summary.bytes / total, 1)}"
        axes.annotate(label, (summary.bytes, place), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=SMALL)  # fmt: skip
    axes.set_yticks(list(places), [summary.kind for summary in classes])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.margins(x=0)
    axes.set_xlim(right=max(summary.bytes for summary in classes) * 1.2 or 1)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    return to_svg(figure, "sizes", "Stored bytes by tensor class")


def draw_ratios(ratios: Mapping[str, Mapping[int, tuple[float, float]]]) -> str | None:
    """Return the signal-to-noise ratio by class and layer; None where nothing was lost."""
    from matplotlib.ticker import MaxNLocator

    shown = {
        kind: points
        for kind, values in ratios.items()
        if (points := {at: pair for at, pair in values.items() if math.isfinite(pair[1])})
    }
    if not shown:
        return None
    figure, axes = new_figure(2.6)
    for index, values in enumerate(shown.values()):
        numbers = list(values)
        medians = [median for median, _ in values.values()]
        lowest = [low for _, low in values.values()]
        axes.vlines(numbers, lowest, medians, color=SERIES[index % len(SERIES)], linewidth=0.6)
        draw_line(axes, index, numbers, medians)
    low, high = axes.get_ylim()
    spare = max(_LEAST_DECIBELS - (high - low), 0) / 2
    axes.set_ylim(low - spare, high + spare)
    name_ends(axes, {
        kind: (max(values), values[max(values)][0]) for kind, values in shown.items()
    })  # fmt: skip
    axes.set_ylabel("signal to noise, dB")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    layer_axis(axes, sorted({layer for values in shown.values() for layer in values}))
    return to_svg(figure, "ratios", "Signal-to-noise ratio by tensor class and layer")


def draw_plan(plan: Plan) -> str | None:
    """Return what each class' options cost in KL and bytes; None without options to draw."""
    shown = [
        (planned.kind, points, planned.chosen)
        for planned in plan.classes
        if (points := sorted(
            (option.bytes, option.kl, option.scheme)
            for option in planned.options
            if option.bytes > 0 and 0 < option.kl < math.inf
        ))
    ]  # fmt: skip
    if not shown or len(shown) > len(SERIES):
        return None
    figure, axes = new_figure(3.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, axis="both")
    for index, (_, points, chosen) in enumerate(shown):
        colour = SERIES[index]
        widths, costs = [point[0] for point in points], [point[1] for point in points]
        axes.plot(widths, costs, color=colour, linestyle=DASHES[index], linewidth=1)
        for width, cost, scheme in points:
            axes.plot(
                width, cost, MARKERS[index], color=colour,
                markerfacecolor=colour if scheme == chosen else PAPER,
                markersize=6 if scheme == chosen else 3.5,
            )  # fmt: skip
    for kind, points, _ in shown:
        axes.annotate(kind, points[0][:2], xytext=(-6, 0), textcoords="offset points",
                      ha="right", va="center", fontsize=SMALL)  # fmt: skip
    axes.xaxis.set_major_formatter(lambda value, _: size(int(value)))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.yaxis.set_major_formatter(small_number)
    axes.set(xlabel="stored bytes of the class", ylabel="KL it costs, nats")
    axes.margins(x=0.12)
    return to_svg(figure, "plan", "KL against bytes of each class' options")
