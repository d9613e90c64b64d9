"""The page of one engine: its certificate as HTML that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from trtcoder import __version__
from trtcoder.bundle.provenance import Coverage
from trtcoder.errors import DependencyError
from trtcoder.printable import printable
from trtcoder.report import comparison_plots, notation, statements, weight_plots
from trtcoder.report.canvas import drawing_style
from trtcoder.report.certified import CertifiedEngine
from trtcoder.report.needle_plot import draw_needles
from trtcoder.report.tensors import ClassSummary, by_class, fallbacks, snr_by_layer, worst

if TYPE_CHECKING:
    from jinja2 import Environment

_WORST = 20
# Rows of a list without end, and names in one of its cells.
_ROWS, _NAMES = 40, 8
_PLOTS = ("kl", "layers", "routers", "sizes", "ratios", "coverage", "plan", "needle")
_SECTIONS = {
    "verdict": "Gates",
    "compared": "Compared",
    "text": "Text",
    "logits": "Logits",
    "layers": "Layers",
    "size": "Size",
    "tensors": "Tensors",
    "fallbacks": "Fallbacks",
    "calibration": "Calibration",
    "plan": "Plan",
    "evaluation": "Suites",
    "files": "Files",
}


def render(engine: CertifiedEngine, *, drawings: bool = True) -> str:
    """Return the page; the same engine always gives the same text.

    Without ``drawings`` it has the text and the tables, and needs no matplotlib.

    Raises:
        DependencyError: jinja2 or matplotlib is not installed.
    """
    environment = _environment()
    certificate = engine.certificate
    plan, calibration = certificate.plan, certificate.calibration
    experts = calibration.experts if calibration is not None else None
    if experts is not None and not any(experts.tokens.values()):
        experts = None
    classes = by_class(certificate.tensors)
    total = statements.total_of(classes)
    fallen = fallbacks(certificate.tensors)
    absent = {
        *(() if classes else ("tensors", "fallbacks")),
        *(() if engine.manifest else ("files", "evaluation")),
        # Its numbers are drawn and stand nowhere else.
        *(() if drawings else ("layers",)),
    }
    template = environment.from_string(_resource("page.html.jinja"))
    page: str = template.render(
        css=_resource("page.css"),
        version=__version__,
        engine=engine,
        certificate=certificate,
        sections=[(key, title) for key, title in _SECTIONS.items() if key not in absent],
        plots=_draw(engine, classes, experts) if drawings else dict.fromkeys(_PLOTS),
        drawn=drawings,
        figures=statements.figures(engine, total),
        verdict=statements.verdict(certificate),
        facts=statements.facts(engine),
        classes=classes,
        total=total,
        worst=worst(certificate.tensors, _WORST),
        fallbacks=fallen,
        fallen=sum(len(fallback.names) for fallback in fallen),
        calibration_facts=statements.calibration_facts(certificate),
        coverage=None if experts is None else statements.coverage_summary(experts),
        coverage_key=[] if experts is None else statements.coverage_key(experts),
        short=[] if experts is None else sorted(experts.short, key=lambda entry: entry[2]),
        goal=None if plan is None else statements.goal(plan),
        options=[] if plan is None else statements.option_rows(plan),
        rounds=None if plan is None else statements.round_rows(plan),
        limit=_ROWS,
        names_shown=_NAMES,
    )
    return printable(page)


def _draw(
    engine: CertifiedEngine, classes: list[ClassSummary], experts: Coverage | None
) -> dict[str, str | None]:
    """Return the drawings by name; None where there is nothing to draw."""
    certificate, scores = engine.certificate, engine.scores
    plan = certificate.plan
    with drawing_style():
        return {
            "kl": comparison_plots.draw_histogram(certificate.logits),
            "layers": comparison_plots.draw_layers(certificate.layers),
            "routers": comparison_plots.draw_routers(certificate.layers),
            "sizes": weight_plots.draw_sizes(classes),
            "ratios": weight_plots.draw_ratios(snr_by_layer(certificate.tensors)),
            "coverage": None if experts is None else weight_plots.draw_coverage(experts),
            "plan": None if plan is None else weight_plots.draw_plan(plan),
            "needle": None if scores is None else draw_needles(scores),
        }


def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise DependencyError(
            f"{error.name} is not installed; pip install 'trtcoder[report]'"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": notation.number,
        "gate": notation.gate,
        "fixed": notation.fixed,
        "percent": notation.percent,
        "signed": notation.signed,
        "size": notation.size,
    }
    environment.globals |= {"change": notation.change, "shares": statements.shares}
    return environment


def _resource(name: str) -> str:
    return files("trtcoder.report").joinpath(name).read_text(encoding="utf-8")
