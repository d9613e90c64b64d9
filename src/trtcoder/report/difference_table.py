"""A comparison of two engines as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trtcoder.printable import printable
from trtcoder.report.difference import Difference, Pairs, TensorDifference, Value
from trtcoder.report.notation import NONE, change, fixed, number, percent, signed, size
from trtcoder.tables import render_table

_TENSORS = 20
_LABELS = {
    "kl_mean": "KL mean, nats",
    "kl_p99": "KL p99, nats",
    "kl_max": "KL max, nats",
    "weights_only_kl": "KL with float32 activations",
    "top1_agreement": "same top token",
    "lost_context": "context lost",
    "bytes": "size",
}


def render(found: Difference) -> str:
    """Return the tables, one below another, under the names of the engines."""
    parts = [f"note: {note}" for note in found.notes]
    recipe = [[key, str(a or NONE), str(b or NONE)] for key, (a, b) in found.recipe.items()]
    # Two recipes have said already how their schemes differ.
    schemes = [
        [kind, str(a or NONE), str(b or NONE)]
        for kind, (a, b) in found.schemes.items()
        if a != b and not any(key.startswith("schemes.") for key in found.recipe)
    ]
    sections = [
        ("recipe", recipe or [["(the same)", "", ""]], False),
        ("outcome", [_outcome(key, *pair) for key, pair in found.metrics.items()], True),
        ("perplexity", _rows(found.perplexity, lambda value: fixed(value, 4), change), True),
        ("bits per weight", _rows(found.bits, lambda value: fixed(value, 3), _minus), True),
        ("bytes", _rows(found.class_bytes, lambda value: fixed(value, 0), change), True),
        ("scheme", schemes, False),
        ("hidden error, layer", _rows(found.layers, number, change), True),
        ("same experts, layer", _rows(found.routers, percent, _points), True),
    ]
    parts += [
        render_table(rows, header=[title, *found.names, *(["change"] if changes else [])])
        for title, rows, changes in sections
        if rows
    ]
    if found.tensors:
        parts.append("\n".join(_tensors(found.tensors)))
    parts.append("\n".join(_files(found.files)))
    return printable("\n\n".join(parts))


def _outcome(key: str, first: Value, second: Value) -> list[str]:
    show: Callable[[Any], str] = number
    differ: Callable[[float | None, float | None], str] = change
    if key == "bytes":
        show = size
    elif key in ("top1_agreement", "lost_context"):
        show, differ = percent, _points
    return [
        _LABELS.get(key, key), _one(first, show), _one(second, show), _both(first, second, differ)
    ]  # fmt: skip


def _rows(
    pairs: Pairs,
    show: Callable[[float | None], str],
    differ: Callable[[float | None, float | None], str],
) -> list[list[str]]:
    return [
        [key, _one(first, show), _one(second, show), _both(first, second, differ)]
        for key, (first, second) in pairs.items()
    ]


def _one(value: Value, show: Callable[[Any], str]) -> str:
    return value if isinstance(value, str) else show(value)


def _both(first: Value, second: Value, differ: Callable[[float | None, float | None], str]) -> str:
    if first == second:
        return "="
    return "" if isinstance(first, str) or isinstance(second, str) else differ(first, second)


def _minus(first: float | None, second: float | None) -> str:
    return NONE if first is None or second is None else signed(fixed(second - first, 3))


def _points(first: float | None, second: float | None) -> str:
    if first is None or second is None:
        return NONE
    return f"{signed(fixed(100 * (second - first), 2))} points"


def _tensors(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    shown = tensors[:_TENSORS]
    rows: list[list[str]] = []
    header = ["tensor", "SNR, dB", "", "change", "scheme and method"]
    for each in shown:
        before, after = (f"{s} {m}" for s, m in zip(each.schemes, each.methods, strict=True))
        ratios = ["exact" if ratio is None else fixed(ratio, 2) for ratio in each.snr_db]
        gain = signed(fixed(each.change_db, 2)) if math.isfinite(each.change_db) else ""
        how = before if before == after else f"{before} → {after}"
        rows.append([each.name, *ratios, gain, how])
    yield render_table(rows, header=header, left=(0, 4))
    yield f"{len(shown):,} of {len(tensors):,} tensors that are stored differently"


def _files(files: Pairs) -> Iterator[str]:
    if not files:
        yield "files: not compared, two certificates were given"
        return
    rows: list[list[str]] = []
    for name, (first, second) in files.items():
        here = [str(value)[:12] for value in (first, second) if value is not None]
        if len(here) < 2:
            rows.append([name, f"only in the {'first' if second is None else 'second'}"])
        else:
            rows.append([name, f"equal ({here[0]}…)" if first == second else "different"])
    yield render_table(rows, header=["file", "sha256"], left=(0, 1))
