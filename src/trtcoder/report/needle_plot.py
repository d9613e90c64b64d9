"""The map of needles: which of them were found, by length of the haystack and depth."""

from __future__ import annotations

from collections import defaultdict

from trtcoder.bundle.scores import Scores, SuiteScores
from trtcoder.report.canvas import PAPER, SMALL, STEPS, WARNING, new_figure, to_svg
from trtcoder.report.notation import percent


def draw_needles(scores: Scores) -> str | None:
    """Return the map of the suite whose problems have places; None without one."""
    return next(filter(None, map(draw_needle, scores.suites)), None)


def draw_needle(scores: SuiteScores) -> str | None:
    """Return a cell for each length and depth; None where no problem has a place."""
    cells: dict[tuple[int, float], list[bool]] = defaultdict(list)
    for problem in scores.problems:
        if problem.place is not None:
            cells[problem.place].append(problem.passed)
    if not cells:
        return None
    lengths = sorted({length for length, _ in cells})
    depths = sorted({depth for _, depth in cells})
    figure, axes = new_figure(0.9 + 0.26 * len(depths))
    for (length, depth), found in cells.items():
        share = sum(found) / len(found)
        column, row = lengths.index(length), depths.index(depth)
        axes.bar(
            column, 0.94, 0.97, bottom=row - 0.47,
            color=STEPS[round(share * (len(STEPS) - 1))], edgecolor=PAPER, linewidth=0.5,
        )  # fmt: skip
        # Told without colour too.
        axes.annotate(
            "✓" if share == 1 else "✗" if share == 0 else percent(share, 0), (column, row),
            ha="center", va="center", fontsize=SMALL, color=PAPER if share > 0.5 else WARNING,
        )  # fmt: skip
    axes.grid(visible=False)
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    axes.set_xticks(range(len(lengths)), [_tokens(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [percent(depth, 0) for depth in depths])
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("depth of the needle")
    label = f"{scores.passed} of {scores.asked} needles found, by length and depth"
    return to_svg(figure, "needle", label)


def _tokens(length: int) -> str:
    return f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}"
