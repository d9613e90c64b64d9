"""KL over bits per weight: ours and llama.cpp's as two series, each point by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"trtcoder": "#0b6e99", "llama.cpp": "#b4552d"}
# Rows that are not quantized lie decades below and far beside the others.
MOST_BITS = 15.0
# Labels stand this many bits beside a group, and at least this factor of KL under one another.
_GAP, _LINE = 0.2, 1.16
# Bits that the widest label takes.
_ROOM = 1.5

Rows = Mapping[str, Mapping[str, Any]]


def plot(rows: Rows, path: Path) -> None:
    """Draw the rows of fewer than `MOST_BITS` bits as an SVG that is the same each time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "trtcoder"
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    axes = figure.subplots()
    shown = {label: row for label, row in rows.items() if row["bits_per_weight"] < MOST_BITS}
    for side, colour in COLOURS.items():
        mine = [row for row in shown.values() if row["side"] == side]
        bits, kl = ([row[key] for row in mine] for key in ("bits_per_weight", "kl_mean"))
        axes.scatter(bits, kl, s=28, color=colour, label=side, zorder=3)
    axes.set_yscale("log")
    axes.margins(y=0.1)
    left, right = axes.get_xlim()
    axes.set_xlim(left - _ROOM, right + _ROOM)
    axes.set_xlabel("bits per weight, all weights")
    axes.set_ylabel("mean KL from float32, nats")
    axes.set_title("The demo model, quantized", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    _label(axes, shown)
    figure.savefig(path, metadata={"Date": None})


def _label(axes: Any, rows: Rows) -> None:
    """Name each point, with a line to it: ours in a column right of a group, llama.cpp's left."""
    for group in _groups(rows):
        bits = [float(rows[label]["bits_per_weight"]) for label in group]
        for side, column in (("trtcoder", max(bits) + _GAP), ("llama.cpp", min(bits) - _GAP)):
            lowest = math.inf
            for label in group:
                row = rows[label]
                if row["side"] != side:
                    continue
                lowest = min(float(row["kl_mean"]), lowest / _LINE)
                axes.annotate(
                    label,
                    (row["bits_per_weight"], row["kl_mean"]),
                    xytext=(column, lowest),
                    ha="left" if side == "trtcoder" else "right",
                    va="center",
                    fontsize=8,
                    color=COLOURS[side],
                    arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#999999"},
                )


def _groups(rows: Rows) -> list[list[str]]:
    """Return the labels in groups that lie more than a bit apart, each by descending KL."""
    groups: list[list[str]] = []
    before = -math.inf
    for label, row in sorted(rows.items(), key=lambda entry: float(entry[1]["bits_per_weight"])):
        if row["bits_per_weight"] > before + 1:
            groups.append([])
        groups[-1].append(label)
        before = row["bits_per_weight"]
    for group in groups:
        group.sort(key=lambda label: -float(rows[label]["kl_mean"]))
    return groups
