from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality_goals import FP8, MIXED, goals

SEQUENCES = 40


def row(
    side: str, nbytes: int, kl: float, change: float = 0.0, spread: Sequence[float] = (1.0,)
) -> dict[str, Any]:
    """Return a row whose sequences have 10 tokens each; ``spread`` repeats over their KL."""
    shares = np.resize(spread, SEQUENCES) / np.mean(np.resize(spread, SEQUENCES))
    return {
        "side": side,
        "weight_bytes": nbytes,
        "file_bytes": nbytes + 10,
        "kl_mean": kl,
        "perplexity_change": change,
        "by_sequence": {
            "kl": (10 * kl * shares).tolist(),
            "tokens": [10] * SEQUENCES,
            "nats": [10 * float(np.log1p(change))] * SEQUENCES,
        },
    }


PEERS = {
    "Q4_K_M": row("llama.cpp", 100, 0.02),
    "Q4_K_M, imatrix": row("llama.cpp", 100, 0.01),
}


def outcomes(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [goal["outcome"] for goal in goals(PEERS | rows)]


def test_a_row_with_more_bytes_cannot_meet_the_goal() -> None:
    larger = {"int8": row("trtcoder", 101, 1e-4)}
    assert outcomes(larger)[:4] == ["n/a"] * 4
    rows = larger | {"int4": row("trtcoder", 100, 0.009)}
    met = "met: int4 has 45% of its KL (45% to 45%)"
    missed = "missed: int4 has 90% of its KL (90% to 90%)"
    assert outcomes(rows)[:4] == [met, met, missed, missed]


def test_bytes_of_weights_and_of_all_files_are_held_apart() -> None:
    lean = row("trtcoder", 100, 0.005) | {"file_bytes": 111}
    met, absent = outcomes({"int4": lean})[:2]
    assert met.startswith("met: int4 has 25% of its KL")
    assert absent == "n/a"


def test_perplexity_goals_wait_for_their_rows() -> None:
    assert outcomes({})[4:] == ["n/a", "n/a"]
    rows = {
        MIXED: row("trtcoder", 100, 0.009, 0.0149),
        FP8: row("trtcoder", 180, 0.001, 0.0031),
    }
    assert outcomes(rows)[4:] == [
        "met: +1.49% (+1.49% to +1.49%)",
        "missed: +0.31% (+0.31% to +0.31%)",
    ]


@pytest.mark.parametrize(("kl", "verdict"), [(0.0099, "met"), (0.0101, "missed")])
def test_a_share_whose_range_holds_the_limit_is_too_close_to_call(kl: float, verdict: str) -> None:
    uneven = {"int4": row("trtcoder", 100, kl, spread=(0.2, 1.0, 1.8))}
    assert outcomes(uneven)[0].startswith(f"{verdict}, but too close to call: ")
    even = {"int4": row("trtcoder", 100, kl)}
    assert outcomes(even)[0].startswith(f"{verdict}: ")


@given(st.integers(2, 12).flatmap(lambda n: st.lists(st.floats(0.1, 3.0), min_size=n, max_size=n)))
def test_a_range_lies_between_the_sequences_extremes(spread: list[float]) -> None:
    rows = {"int4": row("trtcoder", 100, 0.004, spread=spread)}
    figure = outcomes(rows)[0].partition("(")[2].rstrip(")")
    low, high = (float(part.rstrip("%")) / 100 for part in figure.split(" to "))
    # The peer's sequences are alike, so a share is the mean of the drawn ones over its 0.02.
    per_sequence = np.array(rows["int4"]["by_sequence"]["kl"]) / 10 / 0.02
    assert per_sequence.min() - 0.005 <= low <= high <= per_sequence.max() + 0.005
    assert low <= 0.2 + 0.005
    assert high >= 0.2 - 0.005
