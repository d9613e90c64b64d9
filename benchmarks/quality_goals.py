"""The goals of quality, and how the rows of `benchmarks.quality` stand against them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
MIXED, FP8 = "mixed 11.7 MB, gptq", "fp8"
PEERS = ("Q4_K_M", "Q4_K_M, imatrix")
# All files of an engine hold its graph, tokenizer and certificate too; a GGUF, its tokenizer.
BYTES = {"weight_bytes": "bytes of weights", "file_bytes": "bytes in all files"}
# Label -> how much the perplexity may grow, over the tokens of all kinds.
PERPLEXITY = {MIXED: 0.015, FP8: 0.003}
KL_SHARE = 0.5


def goals(rows: Rows) -> list[dict[str, str]]:
    """Return each goal as text and its outcome, ``n/a`` where a row does not exist yet."""
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
            share = rows[best]["kl_mean"] / rows[peer]["kl_mean"]
            outcome = f"{_met(share <= KL_SHARE)}: {best} has {share:.0%} of its KL"
        yield {
            "goal": f"at no more {name} than {peer}, at most {KL_SHARE:.0%} of its KL",
            "outcome": outcome,
        }


def _perplexity(rows: Rows) -> Iterator[dict[str, str]]:
    for label, limit in PERPLEXITY.items():
        outcome = "n/a"
        if label in rows:
            change = rows[label]["perplexity_change"]
            outcome = f"{_met(change <= limit)}: {change:+.2%}"
        yield {"goal": f"{label} within +{limit:.1%} perplexity", "outcome": outcome}


def _met(met: bool) -> str:
    return "met" if met else "missed"
