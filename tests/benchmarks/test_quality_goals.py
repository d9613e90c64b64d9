from __future__ import annotations

from typing import Any

from benchmarks.quality_goals import FP8, MIXED, goals


def row(side: str, nbytes: int, kl: float, change: float = 0.0) -> dict[str, Any]:
    return {
        "side": side,
        "weight_bytes": nbytes,
        "file_bytes": nbytes + 10,
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
    assert outcomes(larger)[:4] == ["n/a"] * 4
    rows = larger | {"int4": row("trtcoder", 100, 0.009)}
    met, missed = "met: int4 has 45% of its KL", "missed: int4 has 90% of its KL"
    assert outcomes(rows)[:4] == [met, met, missed, missed]


def test_bytes_of_weights_and_of_all_files_are_held_apart() -> None:
    lean = row("trtcoder", 100, 0.005) | {"file_bytes": 111}
    assert outcomes({"int4": lean})[:2] == ["met: int4 has 25% of its KL", "n/a"]


def test_perplexity_goals_wait_for_their_rows() -> None:
    assert outcomes({})[4:] == ["n/a", "n/a"]
    rows = {
        MIXED: row("trtcoder", 100, 0.009, 0.0149),
        FP8: row("trtcoder", 180, 0.001, 0.0031),
    }
    assert outcomes(rows)[4:] == ["met: +1.49%", "missed: +0.31%"]
