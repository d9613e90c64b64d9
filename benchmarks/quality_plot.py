"""KL over bits per weight: ours and llama.cpp's as two series, each point by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"trtcoder": "#0b6e99", "llama.cpp": "#b4552d"}
# Unquantized rows lie decades below and beside the others.
MOST_BITS = 12.0
# Height of a label and width of the widest, in points.
_LINE, _WIDTH = 10.0, 100.0


def plot(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the rows of fewer than `MOST_BITS` bits as an SVG that is the same each time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "trtcoder"
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    shown = {label: row for label, row in rows.items() if row["bits_per_weight"] < MOST_BITS}
    for side, colour in COLOURS.items():
        mine = [row for row in shown.values() if row["side"] == side]
        bits, kl = ([row[key] for row in mine] for key in ("bits_per_weight", "kl_mean"))
        axes.scatter(bits, kl, s=28, color=colour, label=side, zorder=3)
    axes.set_yscale("log")
    axes.margins(x=0.25, y=0.1)
    axes.set_xlabel("bits per weight, all weights")
    axes.set_ylabel("mean KL from float32, nats")
    axes.set_title("The demo model, quantized", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    _label(axes, shown)
    figure.savefig(path, metadata={"Date": None})


def _label(axes: Any, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write each point's name beside it, moved down where it would lie on another.

    Ours stand right of their points and llama.cpp's left, so that close points can be told apart.
    """
    axes.figure.draw_without_rendering()  # the scales are known only then
    points_per_pixel = 72 / axes.figure.dpi
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in COLOURS}
    for label, row in sorted(rows.items(), key=lambda entry: -float(entry[1]["kl_mean"])):
        side = row["side"]
        place = (row["bits_per_weight"], row["kl_mean"])
        x, y = (float(value) * points_per_pixel for value in axes.transData.transform(place))
        near = [other for there, other in taken[side] if abs(there - x) < _WIDTH]
        moved = min([y, *(other - _LINE for other in near)])
        taken[side].append((x, moved))
        axes.annotate(
            label,
            place,
            xytext=(8 if side == "trtcoder" else -8, moved - y),
            textcoords="offset points",
            ha="left" if side == "trtcoder" else "right",
            va="center",
            fontsize=8,
            color=COLOURS[side],
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#999999", "shrinkB": 3},
        )
