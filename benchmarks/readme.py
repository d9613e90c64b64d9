"""Writes tables of README and docs from benchmarks/results; --check only compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.cpu_tables import contention_table, cpu_table, profile_table
from benchmarks.cpu_tables import goals_table as cpu_goals
from benchmarks.evaluation_table import evaluation_table, needle_table
from benchmarks.record import RESULTS, hardware
from benchmarks.serving_tables import PARTS as SERVING_PARTS

ROOT = Path(__file__).parents[1]


def speed_table(result: dict[str, Any]) -> str:
    """Return speed, load time and memory as Markdown."""
    lines = [
        f"{result['prefill_tokens']} tokens of prompt, {result['decode_tokens']} decoded, "
        f"{hardware(result['environment'])} (`make bench`):",
        "",
        "| engine | prefill tok/s | decode tok/s | load s | peak RSS MB | on disk MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, row in result["engines"].items():
        lines.append(
            f"| {label} | {row['prefill_tokens_per_second']:,.0f} "
            f"| {row['decode_tokens_per_second']:,.1f} | {row['load_seconds']:.2f} "
            f"| {row['peak_rss_mb']:,} | {row['disk_mb']:,.1f} |"
        )
    return "\n".join(lines)


def quality_table(result: dict[str, Any]) -> str:
    """Return what each format cost the demo model, ours and llama.cpp's, as Markdown."""
    peer, text = result["llama.cpp"], result["text"]
    lines = [
        f"The demo model against transformers in float32, on {text['judging']['tokens']:,} tokens "
        f"of held-out text, beside llama.cpp ({peer['package']}) on the same tokens "
        f"(`make quality`; {hardware(result['environment'])}). They are the part of that text that "
        f"nothing was chosen by: sizes and defaults were, by the other "
        f"{text['choosing']['tokens']:,} tokens. An engine's files are its weights, graph, "
        "tokenizer and certificate; a GGUF holds its tokenizer.",
        "",
        "| | weights | weights MB | files MB | bits/weight | KL mean | KL p99 | top-1 "
        "| perplexity | plain / fim / chat |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for label, row in result["rows"].items():
        texts = {text["kind"]: text for text in row["texts"]}
        perplexity = " / ".join(
            f"{texts[kind]['engine_perplexity']:.2f}" for kind in ("plain", "fim", "chat")
        )
        lines.append(
            f"| {row['side']} | {label} | {row['weight_bytes'] / 1e6:.2f} "
            f"| {row['file_bytes'] / 1e6:.2f} | {row['bits_per_weight']:.2f} "
            f"| {row['kl_mean']:.1e} | {row['kl_p99']:.1e} | {row['top1_agreement']:.1%} "
            f"| {_percent(row['perplexity_change'])} | {perplexity} |"
        )
    plot = "![KL over bits per weight](benchmarks/results/quality.svg)"
    return "\n".join([*lines, "", goals_table(result), "", fallback_table(result), "", plot])


def goals_table(result: dict[str, Any]) -> str:
    """Return how the rows stand against the goals, as Markdown."""
    lines = [
        "What was aimed at (in brackets: 95 % of the figures that other text of the kind would "
        "give, by resampling the sequences):",
        "",
        "| goal | outcome |",
        "| --- | --- |",
    ]
    for goal in result["goals"]:
        outcome, _, figure = goal["outcome"].partition(": ")
        lines.append(f"| {goal['goal']} | **{outcome}**: {figure} |")
    return "\n".join(lines)


def fallback_table(result: dict[str, Any]) -> str:
    """Return which of llama.cpp's tensors are of another type than was asked for, as Markdown."""
    labels: dict[str, list[str]] = {}
    for label, row in result["rows"].items():
        if row.get("fallbacks"):
            labels.setdefault(json.dumps(row["fallbacks"]), []).append(label)
    lines = [
        "Q8_0 and Q4_0 need rows of a multiple of 32 columns, Q4_K_M and IQ4_XS of 256. Where the "
        "demo's widths are not, llama.cpp stores a tensor in a larger type (a Lite's `ffn_down`, "
        "of 10,944 and 1,408 columns, and `attn_k_b`, of 128, are no multiples of 256 either):",
        "",
        "| llama.cpp | tensors of another type | of all weights | which (columns): type |",
        "| --- | ---: | ---: | --- |",
    ]
    for found, same in labels.items():
        row, entries = result["rows"][same[0]], json.loads(found)
        total = sum(entry["tensors"] for entry in row["types"].values())
        tensors = sum(entry["tensors"] for entry in entries)
        share = sum(entry["weights"] for entry in entries) / result["parameters"]
        kinds: dict[str, list[str]] = {}
        for entry in entries:
            name = entry["name"].removeprefix("blk.*.").removesuffix(".weight")
            kinds.setdefault(f"`{name}` ({entry['columns']})", []).append(entry["stored"])
        which = ", ".join(f"{name}: {' and '.join(types)}" for name, types in kinds.items())
        lines.append(f"| {'; '.join(same)} | {tensors} of {total} | {share:.1%} | {which} |")
    return "\n".join(lines)


def lite_paragraph(result: dict[str, Any]) -> str:
    """Return what a Lite of full shape took, as a paragraph."""
    build = result["build"]
    seconds, disk = build["seconds"], build["disk_seconds"]
    streamed = seconds["convert"] + seconds["commit"]
    peaks = build["peak_rss_bytes"]
    killed = ", ".join(f"{share:.0%}" for share in build["killed_at"])
    same = "the same, byte for byte" if build["identical"] else "**different**"
    return (
        f"A Lite of full shape (27 layers, {result['checkpoint_gb']:.1f} GB of random bf16 "
        f"weights; `make build-lite`; {hardware(result['environment'])}) becomes an int4 engine of "
        f"{build['bytes'] / 1e9:.1f} GB in {streamed:.0f} s, "
        f"{build['share_of_disk_speed']:.0%} of the speed at which this disk reads the one "
        f"({disk['read']:.0f} s) and writes the other ({disk['write']:.0f} s), in "
        f"{peaks['convert'] / 2**30:.2f} GiB of memory. Verifying it on {result['tokens']} tokens "
        f"takes {seconds['verify'] / 60:.1f} minutes more and {peaks['verify'] / 2**30:.2f} GiB. "
        f"Killed with SIGKILL at {killed} of its steps and started again, the build ended with "
        f"{same}."
    )


def samples(result: dict[str, Any]) -> str:
    """Return prompts and answers as Markdown."""
    parts = []
    for sample in result["samples"]:
        text = f"{sample['prompt']}\n---\n{sample['answer'].rstrip()}"
        parts.append(f"{sample['title']}:\n\n````text\n{text}\n````")
    return "\n\n".join(parts)


def render_parts(text: str) -> str:
    """Return a page with the parts replaced of which there are results."""
    for name, part in PARTS.items():
        if f"<!-- {name} -->" in text and (RESULTS / f"{name}.json").exists():
            text = _replace(text, name, part(_load(name)))
    return text


def render_readme(text: str) -> str:
    """Return the README with its generated parts replaced."""
    tables = [speed_table(_load("speed")), lite_paragraph(_load("lite"))]
    text = _replace(text, "tables", "\n\n".join(tables))
    if (RESULTS / "cpu.json").exists():
        text = _replace(text, "cpu", cpu_goals(_load("cpu")))
    text = _replace(text, "quality", quality_table(_load("quality")))
    return _replace(text, "samples", samples(_load("samples")))


def _percent(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.2%}"  # adding 0.0 takes the sign off a zero


def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def _replace(text: str, name: str, part: str) -> str:
    pattern = rf"<!-- {name} -->.*?<!-- /{name} -->"
    return re.sub(
        pattern, lambda _: f"<!-- {name} -->\n{part}\n<!-- /{name} -->", text, flags=re.DOTALL
    )


PARTS = {
    **SERVING_PARTS,
    "evaluation": evaluation_table,
    "needle": needle_table,
    "cpu": cpu_table,
    "cpu-avx2": cpu_goals,
    "cpu_profile": profile_table,
    "contention": contention_table,
}
PAGES = {
    "README.md": render_readme,
    "docs/evaluation.md": render_parts,
    "docs/serving.md": render_parts,
    "docs/performance.md": render_parts,
    "docs/triton.md": render_parts,
}

if __name__ == "__main__":
    for name, render in PAGES.items():
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        if "--check" not in sys.argv:
            path.write_text(render(page), encoding="utf-8")
        elif render(page) != page:
            raise SystemExit(
                f"{name} is not what benchmarks/results say; run `python -m benchmarks.readme`"
            )
