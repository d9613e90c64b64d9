"""What the demo model solves in each precision, as Markdown for docs/evaluation.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import hardware

Result = dict[str, Any]


def evaluation_table(result: Result) -> str:
    """Return scores, and flips against float32, beside what the certificates say."""
    lines = [
        f"`make bench-eval` ({hardware(result['environment'])}); "
        f"`trtcoder eval ENGINE {' '.join(result['options'])}`. KL, in nats, lost context and "
        "top-1 are of each engine's certificate. Shares have their 95 % interval in brackets; "
        "lines are those to fill in, by the tests of their functions and as they were.",
        "",
        "| engine | KL mean | context lost | top-1 | HumanEval | lines that pass | exact | needles "
        "| lines lost / won against fp32 | p |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for label, row in result["engines"].items():
        suites = row["suites"]
        needle, flips = suites["needle"], row["against_fp32"]["infilling"]
        lines.append(
            f"| {label} | {row['kl_mean']:.1e} | {row['lost_context']:.2%} "
            f"| {row['top1_agreement']:.1%} | {_share(suites['human-eval'])} "
            f"| {_share(suites['infilling'])} "
            f"| {suites['infilling']['measures']['exact match']:.1%} "
            f"| {needle['passed']} of {needle['asked']} | {flips['lost']} / {flips['won']}: "
            f"{flips['verdict']} | {flips['p_value']:.2g} |"
        )
    return "\n".join(lines)


def _share(suite: Result) -> str:
    low, high = suite["interval"]
    return f"{suite['passed'] / suite['asked']:.1%} ({low:.1%} to {high:.1%})"
