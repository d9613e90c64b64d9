"""The goals of quality, and how the rows of `benchmarks.quality` stand against them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = Mapping[str, Mapping[str, Any]]
Sums = Mapping[str, NDArray[np.float64]]
MIXED, FP8 = "mixed 11.7 MB, gptq", "fp8"
PEERS = ("Q4_K_M", "Q4_K_M, imatrix")
# All files of an engine hold its graph, tokenizer and certificate too; a GGUF, its tokenizer.
BYTES = {"weight_bytes": "bytes of weights", "file_bytes": "bytes in all files"}
# Label -> how much the perplexity may grow, over the tokens of all kinds.
PERPLEXITY = {MIXED: 0.015, FP8: 0.003}
KL_SHARE = 0.5
RESAMPLES = 4000


def goals(rows: Rows) -> list[dict[str, str]]:
    """Return each goal as text and its outcome, ``n/a`` where a row does not exist yet.

    Behind a figure stands the range of 95 % of the figures that other text of the kind would give,
    by resampling the sequences. Where the limit is within that range, it is too close to call.
    """
    return [*_smaller_kl(rows), *_perplexity(rows)]


def _smaller_kl(rows: Rows) -> Iterator[dict[str, str]]:
    for peer, (size, name) in itertools.product(PEERS, BYTES.items()):
        ours = [
            label
            for label, row in rows.items()
            if row["side"] == "trtcoder" and row[size] <= rows[peer][size]
        ]
        outcome = "n/a"
        if ours:
            best = min(ours, key=lambda label: float(rows[label]["kl_mean"]))
            sums = {"ours": _sums(rows[best], "kl"), "theirs": _sums(rows[peer], "kl")}
            share = rows[best]["kl_mean"] / rows[peer]["kl_mean"]
            low, high = _range(sums, lambda drawn: drawn["ours"] / drawn["theirs"])
            outcome = (
                f"{_met(share, KL_SHARE, low, high)}: {best} has {share:.0%} of its KL "
                f"({low:.0%} to {high:.0%})"
            )
        yield {
            "goal": f"at no more {name} than {peer}, at most {KL_SHARE:.0%} of its KL",
            "outcome": outcome,
        }


def _perplexity(rows: Rows) -> Iterator[dict[str, str]]:
    for label, limit in PERPLEXITY.items():
        outcome = "n/a"
        if label in rows:
            change = rows[label]["perplexity_change"]
            sums = {key: _sums(rows[label], key) for key in ("nats", "tokens")}
            low, high = _range(sums, lambda drawn: np.expm1(drawn["nats"] / drawn["tokens"]))
            outcome = f"{_met(change, limit, low, high)}: {change:+.2%} ({low:+.2%} to {high:+.2%})"
        yield {"goal": f"{label} within +{limit:.1%} perplexity", "outcome": outcome}


def _sums(row: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    return np.array(row["by_sequence"][key], np.float64)


def _range(
    sums: Sums, figure: Callable[[Sums], NDArray[np.float64]], share: float = 0.95
) -> tuple[float, float]:
    """Return the range of ``figure`` over sequences drawn again, with those drawn twice."""
    count = len(next(iter(sums.values())))
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    figures = figure({key: values[drawn].sum(axis=1) for key, values in sums.items()})
    tail = (1 - share) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    return float(low), float(high)


def _met(value: float, limit: float, low: float, high: float) -> str:
    met = "met" if value <= limit else "missed"
    return f"{met}, but too close to call" if low <= limit <= high else met
