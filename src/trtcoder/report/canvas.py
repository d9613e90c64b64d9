"""Turns matplotlib's figures into SVG with the page's colours and fonts, always the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from trtcoder.errors import DependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, and the size of text in points; the page scales a drawing to its column's width.
WIDTH = 7.0
SMALL = 7.5

# What a drawing says -> what the page makes of it, where screen, dark mode and print differ. They
# are no colours to be seen, only ones that nothing else uses.
INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a")
BAR, WARNING = "#0b0b0b", "#0c0c0c"
STEPS = ("#0d0d0d", "#0e0e0e", "#0f0f0f", "#101010", "#111111")
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    **{colour: f"series-{index}" for index, colour in enumerate(SERIES)},
    BAR: "bar",
    WARNING: "warning",
    **{colour: f"step-{index}" for index, colour in enumerate(STEPS)},
}
# Lines that differ without colour too.
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1)),
    (0, (8, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P")

# Any: the keys that matplotlib knows are a type of their own, by version.
_SETTINGS: Any = {
    "svg.hashsalt": "trtcoder",
    # Text stays text: it can be read aloud and searched, and takes the page's font.
    "svg.fonttype": "none",
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "font.size": SMALL,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
    "savefig.facecolor": "none",
    "text.color": INK,
    # A name with dollar signs is no formula.
    "text.parse_math": False,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw as the page wants it, whatever the user's own settings of matplotlib are.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError(
            f"{error.name} is not installed; pip install 'trtcoder[report]'"
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure as wide as the page's column, ``height`` inches high, with one plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an SVG element; ``name`` sets its ids apart, ``label`` describes it."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Groups carry ids that nothing refers to, the same in every figure.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    if box is None:
        raise ValueError(f"{name}: matplotlib wrote an SVG without a viewBox")
    body = svg[svg.index(">") + 1 :]
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return f'<svg {box[0]} role="img" aria-label="{_escape(label)}">{body.strip()}'


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def standalone(svg: str) -> str:
    """Return a drawing as a file of its own, on paper: the page's light colours are filled in."""
    css = files("trtcoder.report").joinpath("page.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([\w-]+): ([^;]+);", css.partition("}")[0]))
    svg = re.sub(r"var\(--([\w-]+)\)", lambda found: light[found[1]], svg)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = f"font-family: sans-serif; background: {light['paper']}"
    return svg.replace("<svg ", f'<svg {spaces} style="{style}" ', 1) + "\n"
