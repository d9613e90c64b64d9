from __future__ import annotations

from typing import Any

from benchmarks.quality_goals import goals


def row(side: str, weight_bytes: int, kl: float, change: float = 0.0) -> dict[str, Any]:
    return {
        "side": side,
        "weight_bytes": weight_bytes,
        "kl_mean": kl,
        "perplexity_change": change,
    }


PEERS = {
    "Q4_K_M": row("llama.cpp", 100, 0.02),
    "Q4_K_M, imatrix": row("llama.cpp", 100, 0.01),
}


def outcomes(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [goal["outcome"] for goal in goals(PEERS | rows)]


def test_a_row_with_more_bytes_cannot_meet_the_goal() -> None:
    larger = {"int8": row("trtcoder", 101, 1e-4)}
    assert outcomes(larger)[:2] == ["n/a", "n/a"]
    rows = larger | {"int4": row("trtcoder", 100, 0.009)}
    assert outcomes(rows)[:2] == ["met: int4 has 45% of its KL", "missed: int4 has 90% of its KL"]


def test_perplexity_goals_wait_for_their_rows() -> None:
    assert outcomes({})[2:] == ["n/a", "n/a"]
    rows = {
        "int4, mixed": row("trtcoder", 100, 0.009, 0.0149),
        "fp8": row("trtcoder", 180, 0.001, 0.0031),
    }
    assert outcomes(rows)[2:] == ["met: +1.49%", "missed: +0.31%"]
