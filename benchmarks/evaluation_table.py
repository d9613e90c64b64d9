"""What the demo model solves, and how long needles take, as Markdown for docs/evaluation.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import hardware

Result = dict[str, Any]


def evaluation_table(result: Result) -> str:
    """Return scores, and flips against float32, beside what the certificates say."""
    limit = result["limit"]
    some = f", the first {limit} problems of each suite," if limit else ""
    lines = [
        f"`make bench-eval` ({hardware(result['environment'])}); "
        f"`trtcoder eval ENGINE {' '.join(result['options'])}`{some} and lines of *classics*, "
        "functions that the model was trained on. KL, in nats, context lost and top-1 are of each "
        "engine's certificate. Shares have their 95 % interval in brackets; classics that flipped "
        "are held against float32.",
        "",
        "| engine | KL mean | context lost | top-1 | HumanEval | HumanEval's lines | needles "
        "| classics | lost / won | p | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for label, row in result["engines"].items():
        suites, flips = row["suites"], row["against_fp32"]["classics"]
        lines.append(
            f"| {label} | {row['kl_mean']:.1e} | {row['lost_context']:.2%} "
            f"| {row['top1_agreement']:.1%} | {_share(suites.get('human-eval'))} "
            f"| {_share(suites.get('infilling'))} "
            f"| {_count(suites.get('needle'))} "
            f"| {_share(suites['classics'])} | {flips['lost']} / {flips['won']} "
            f"| {flips['p_value']:.2g} | {flips['verdict']} |"
        )
    return "\n".join(lines)


def needle_table(result: Result) -> str:
    """Return the time and memory of needles by the length of their haystacks."""
    lines = [
        f"`make bench-needle` ({hardware(result['environment'])}): one of a Lite's layers of "
        f"experts, random weights, int4 with an {result['cache']} cache; one needle after another.",
        "",
        "| tokens | answered | seconds a needle | peak memory, GB |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['tokens']:,} | {row['answered']} of {row['asked']} "
            f"| {row['seconds'] / row['asked']:,.0f} | {row['peak_gb']:.2f} |"
        )
    return "\n".join(lines)


def _share(suite: Result | None) -> str:
    """Return the share with its interval and of how many; nothing where it was not asked."""
    if suite is None:
        return ""
    low, high = suite["interval"]
    share = suite["passed"] / suite["asked"]
    return f"{share:.1%} of {suite['asked']:,} ({low:.1%} to {high:.1%})"


def _count(suite: Result | None) -> str:
    return "" if suite is None else f"{suite['passed']} of {suite['asked']}"
