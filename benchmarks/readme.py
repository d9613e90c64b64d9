"""Writes the README's tables and samples from benchmarks/results; --check only compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

README = Path(__file__).parents[1] / "README.md"


def speed_table(result: dict[str, Any]) -> str:
    """Return speed, load time and memory as Markdown."""
    lines = [
        f"{result['prefill_tokens']} tokens of prompt, {result['decode_tokens']} decoded, "
        f"{result['environment']['cpu']}, {result['environment']['cores']} cores "
        "(`make bench`):",
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
    peer = result["llama.cpp"]
    lines = [
        f"The demo model against transformers in float32, on {result['text']['tokens']:,} tokens "
        f"of held-out text, beside llama.cpp ({peer['package']}) on the same tokens "
        "(`make quality`):",
        "",
        "| | weights | bits/weight | KL mean | KL p99 | top-1 | perplexity | plain / fim / chat |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for label, row in result["rows"].items():
        texts = {text["kind"]: text for text in row["texts"]}
        perplexity = " / ".join(
            f"{texts[kind]['engine_perplexity']:.2f}" for kind in ("plain", "fim", "chat")
        )
        lines.append(
            f"| {row['side']} | {label} | {row['bits_per_weight']:.2f} | {row['kl_mean']:.1e} "
            f"| {row['kl_p99']:.1e} | {row['top1_agreement']:.1%} "
            f"| {_percent(row['perplexity_change'])} | {perplexity} |"
        )
    return "\n".join([*lines, "", "![KL over bits per weight](benchmarks/results/quality.svg)"])


def lite_paragraph(result: dict[str, Any]) -> str:
    """Return what a Lite of full shape took, as a paragraph."""
    build, run = result["build"], result["run"]
    seconds, disk = build["seconds"], build["disk_seconds"]
    streamed = seconds["convert"] + seconds["commit"]
    peaks = build["peak_rss_bytes"]
    killed = ", ".join(f"{share:.0%}" for share in build["killed_at"])
    same = "the same, byte for byte" if build["identical"] else "**different**"
    return (
        f"A Lite of full shape (27 layers, {result['checkpoint_gb']:.1f} GB of random bf16 "
        f"weights; `make build-lite`) becomes an int4 engine of {build['bytes'] / 1e9:.1f} GB in "
        f"{streamed:.0f} s, {build['share_of_disk_speed']:.0%} of the speed at which this disk "
        f"reads the one ({disk['read']:.0f} s) and writes the other ({disk['write']:.0f} s), in "
        f"{peaks['convert'] / 2**30:.2f} GiB of memory. Verifying it on {result['tokens']} tokens "
        f"takes {seconds['verify'] / 60:.1f} minutes more and {peaks['verify'] / 2**30:.2f} GiB. "
        f"Killed with SIGKILL at {killed} of its steps and started again, the build ended with "
        f"{same}. The engine loads in {run['load_seconds']:.0f} s, prefills "
        f"{run['prefill_tokens_per_second']:.0f} and decodes "
        f"{run['decode_tokens_per_second']:.1f} tokens a second at {result['prefill_tokens']} "
        f"tokens of context, and peaks at {run['peak_rss_mb'] / 1000:.1f} GB of memory."
    )


def samples(result: dict[str, Any]) -> str:
    """Return prompts and answers as Markdown."""
    parts = []
    for sample in result["samples"]:
        text = f"{sample['prompt']}\n---\n{sample['answer'].rstrip()}"
        parts.append(f"{sample['title']}:\n\n````text\n{text}\n````")
    return "\n\n".join(parts)


def render(text: str) -> str:
    """Return the README with its generated parts replaced."""
    tables = [
        speed_table(_load("speed")),
        lite_paragraph(_load("lite")),
        quality_table(_load("quality")),
    ]
    text = _replace(text, "tables", "\n\n".join(tables))
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


if __name__ == "__main__":
    page = README.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        README.write_text(render(page), encoding="utf-8")
    elif render(page) != page:
        raise SystemExit("README.md is not what benchmarks/results say; run `make readme`")
