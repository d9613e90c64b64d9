"""What the page states in words and rows, beside the certificate's own tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trtcoder.bundle.certificate import Certificate
from trtcoder.bundle.provenance import Coverage, Plan, PlannedClass, PlannedOption
from trtcoder.bundle.quality import describe
from trtcoder.report.certified import CertifiedEngine
from trtcoder.report.notation import change, fixed, number, percent, size
from trtcoder.report.tensors import ClassSummary
from trtcoder.report.weight_plots import COVERAGE_STEPS

VERDICTS = {
    "passed": "The engine is within every limit that it is held to.",
    "failed": "The engine misses a limit that it is held to.",
    # What certificates say that were written before every precision had a limit.
    "measured": "It is held to no limit: its numbers are stated, and nothing was passed.",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the numbers at the page's top."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One scheme of a class in the plan's table, and how it differs from the chosen one.

    ``first`` is the class' first row. ``more_bytes``, ``more_kl`` and ``rate`` are None for the
    chosen scheme itself; ``rate`` is the KL in nats that a megabyte trades for, None where neither
    is gained for the other.
    """

    planned: PlannedClass
    option: PlannedOption
    first: bool
    more_bytes: int | None = None
    more_kl: float | None = None
    rate: float | None = None

    @property
    def chosen(self) -> bool:
        """Whether the plan took this scheme."""
        return self.more_bytes is None


def verdict(certificate: Certificate) -> str:
    """Return what the verdict means, and how good the engine is."""
    text = VERDICTS.get(certificate.verdict, "")
    if certificate.quality is None:
        return text
    return f"{text} It is {describe(certificate.quality, certificate.lost_context)}.".strip()


def figures(engine: CertifiedEngine, total: ClassSummary) -> list[Figure]:
    """Return the numbers that sum the engine up."""
    certificate = engine.certificate
    logits = certificate.logits
    found = []
    if engine.size is not None:
        found.append(Figure("size", size(engine.size), "all files"))
    if total.bits is not None:
        note = f"stored, of {_count(total.values)} weights"
        found.append(Figure("bits per weight", fixed(total.bits, 2), note))
    note = "nats"
    if certificate.weights_only_kl is not None:
        note += f"; {number(certificate.weights_only_kl)} with float32 activations"
    found.append(Figure("KL, mean", number(logits.kl_mean), note))
    lost = certificate.lost_context
    if lost is not None:
        found.append(Figure("context lost", percent(lost), certificate.quality or "not judged"))
    note = f"{logits.top1_wrong:,} of {logits.positions:,} positions wrong"
    found.append(Figure("same top token", percent(logits.top1_agreement, 1), note))
    for text in certificate.texts[:1]:
        before, after = text.reference_perplexity, text.engine_perplexity
        note = f"{number(before)} to {number(after)}, {text.kind} text"
        found.append(Figure("perplexity", change(before, after), note))
    return found


def facts(engine: CertifiedEngine) -> list[tuple[str, str]]:
    """Return what was compared, by name."""
    certificate, manifest = engine.certificate, engine.manifest
    text = certificate.text
    rows = [("precision", certificate.precision)]
    if manifest is not None:
        rows = [
            ("model", f"{manifest.model.name}, {manifest.source.dtype}"),
            ("engine", f"{manifest.target}, built by trtcoder {manifest.trtcoder}"),
            ("recipe", "; ".join(f"{key} {value}" for key, value in recipe(manifest.recipe))),
        ]
    rows.append(
        (
            "text",
            f"{text.source}, {text.tokens:,} tokens in {text.sequences:,} sequences; one of them "
            f"again with its second half {text.far_position:,} positions further on",
        )
    )
    versions = sorted(certificate.reference.versions.items())
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions)))
    return rows


def recipe(found: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Return a recipe's parts as text; schemes that classes share are written once."""
    for key, value in sorted(found.items(), key=lambda item: (item[0] != "weights", item[0])):
        if isinstance(value, Mapping):
            groups: dict[str, list[str]] = {}
            for name, scheme in value.items():
                groups.setdefault(str(scheme), []).append(str(name))
            parts = [f"{scheme} ({', '.join(names)})" for scheme, names in sorted(groups.items())]
            if parts:
                yield key, ", ".join(parts)
        else:
            yield key.replace("_", " "), str(value)


def shares(parts: Mapping[str, int]) -> str:
    """Return the names of ``parts`` with their shares, or the one there is."""
    total = sum(parts.values())
    if len(parts) < 2 or not total:
        return ", ".join(parts)
    return ", ".join(f"{name} {percent(count / total, 0)}" for name, count in parts.items())


def calibration_facts(certificate: Certificate) -> list[tuple[str, str]]:
    """Return what calibrated, by name."""
    found = certificate.calibration
    if found is None:
        return []
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.items())
    return [
        ("method", found.method),
        ("text", f"{found.source}, {found.tokens:,} tokens in {found.sequences:,} sequences"),
        ("kinds", f"{kinds} tokens" if kinds else "none"),
        ("left out", f"{found.dropped:,} records that share a passage with the held-out text"),
        ("seed", str(found.seed)),
    ]


def coverage_summary(experts: Coverage) -> str:
    """Return how many experts were reached by enough tokens."""
    counts = [count for layer in experts.tokens.values() for count in layer]
    low = sum(count < experts.minimum for count in counts)
    text = (
        f"{len(counts) - low:,} of {len(counts):,} experts were reached by at least "
        f"{experts.minimum:,} tokens, the minimum for calibrating one; the least by {min(counts):,}"
        f" and the most by {max(counts):,}."
    )
    if experts.short:
        text += f" {len(experts.short):,} stayed short even with tokens that ranked them next."
    return text


def coverage_key(experts: Coverage) -> list[str]:
    """Return the tokens that each step of the coverage's drawing stands for."""
    bounds = [bound * max(experts.minimum, 1) for bound in COVERAGE_STEPS]
    middle = [f"{low:,}–{high - 1:,}" for low, high in itertools.pairwise(bounds)]
    return [f"below {bounds[0]:,} tokens", *middle, f"{bounds[-1]:,} and more"]


def goal(plan: Plan) -> str:
    """Return what the plan was asked for and what it came to."""
    asked = (
        f"a mean KL of at most {number(plan.goal.max_kl)} nats"
        if plan.goal.max_kl is not None
        else f"at most {size(plan.goal.target_bytes)}"
    )
    text = f"Asked for {asked}; the chosen schemes were predicted to cost "
    text += f"{number(plan.predicted_kl)} nats"
    if plan.rounds:
        last = plan.rounds[-1]
        text += f", and the last round measured {number(last.measured_kl)} nats at "
        text += size(last.bytes)
        if plan.search_text is not None:
            text += f" on {plan.search_text.tokens:,} tokens of held-out text that do not judge"
    return text + "."


def round_rows(plan: Plan) -> tuple[str, list[tuple[str, str, str, str]]]:
    """Return the budget's heading, and each round's budget, KL twice and bytes."""
    in_bytes = plan.goal.max_kl is None
    rows = [
        (
            size(round(found.budget)) if in_bytes and math.isfinite(found.budget)
            else number(found.budget),
            number(found.predicted_kl), number(found.measured_kl), f"{found.bytes:,}",
        )
        for found in plan.rounds
    ]  # fmt: skip
    return ("budget" if in_bytes else "budget, nats"), rows


def option_rows(plan: Plan) -> list[OptionRow]:
    """Return all options, each class' from the smallest to the largest."""
    return [
        _option_row(planned, option, index == 0)
        for planned in sorted(plan.classes, key=lambda planned: -planned.values)
        for index, option in enumerate(sorted(planned.options, key=lambda each: each.bytes))
    ]


def _option_row(planned: PlannedClass, option: PlannedOption, first: bool) -> OptionRow:
    if option.scheme == planned.chosen:
        return OptionRow(planned, option, first)
    chosen = next(each for each in planned.options if each.scheme == planned.chosen)
    more, cost = option.bytes - chosen.bytes, option.kl - chosen.kl
    rate = -cost / more * 1e6 if more and cost * more < 0 else None
    return OptionRow(planned, option, first, more, cost, rate)


def total_of(classes: Sequence[ClassSummary]) -> ClassSummary:
    """Return all classes as one."""
    return ClassSummary(
        "all",
        sum(summary.tensors for summary in classes),
        sum(summary.values for summary in classes),
        sum(summary.bytes for summary in classes),
        {},
        {},
        None,
        None,
    )


def _count(values: int) -> str:
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if values >= limit:
            return f"{values / limit:.1f} {unit}"
    return f"{values:,}"
