"""Scores and comparisons as tables of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trtcoder.bundle.scores import Scores, SuiteScores
from trtcoder.evaluation.comparison import PairedSuite
from trtcoder.tables import render_table

_NAMES = 12


def render_scores(scores: Scores) -> str:
    """Return what each suite came to, with its interval, beside the card's figure."""
    rows = [_row(found) for found in scores.suites]
    header = ["suite", "asked as", "problems", "passed", "share", "95 % interval", "card", "also"]
    lines = [render_table(rows, header=header, left=(0, 1, 7))]
    lines += list(_notes(scores.suites))
    return "\n".join(lines)


def render_pairs(pairs: Sequence[PairedSuite], names: tuple[str, str]) -> str:
    """Return the paired suites, and the problems that flipped."""
    rows = [
        [
            pair.suite, f"{pair.asked:,}", f"{pair.first / pair.asked:.1%}",
            f"{pair.second / pair.asked:.1%}", str(len(pair.lost)), str(len(pair.won)),
            f"{pair.p_value:.3g}", pair.verdict,
        ]
        for pair in pairs
    ]  # fmt: skip
    header = ["suite", "problems", "A", "B", "only A", "only B", "p", "B against A"]
    lines = [f"A {names[0]}", f"B {names[1]}", "", render_table(rows, header=header, left=(0, 7))]
    for pair in pairs:
        for title, flipped in (("only A solves", pair.lost), ("only B solves", pair.won)):
            if flipped:
                more = f" and {len(flipped) - _NAMES} more" if len(flipped) > _NAMES else ""
                lines.append(f"{pair.suite}: {title} {', '.join(flipped[:_NAMES])}{more}")
    return "\n".join(lines)


def _row(found: SuiteScores) -> list[str]:
    also = ", ".join(f"{name} {share:.1%}" for name, share in found.measures.items())
    if found.refused:
        also += f"{'; ' if also else ''}{found.refused} not asked"
    card = "–" if found.card is None else f"{found.card.share:.1%}"
    return [
        found.suite, found.form, f"{found.asked:,}", f"{found.passed:,}",
        f"{found.share:.1%}", f"{found.low:.1%} to {found.high:.1%}", card, also,
    ]  # fmt: skip


def _notes(suites: Sequence[SuiteScores]) -> Iterator[str]:
    for found in suites:
        if found.card is not None:
            note = f"; {found.card.note}" if found.card.note else ""
            yield f"{found.suite}: the card's figure is of {found.card.source}{note}"
