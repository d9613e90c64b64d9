"""What each precision costs the demo model, and what its int4 engine answers.

Builds the engines as `trtcoder build` does, so that each is verified; runs the README's prompts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.record import environment, keep
from trtcoder.runtime import open_engine

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo" / "checkpoint"
TOKENS = 8192
VARIANTS: dict[str, list[str]] = {
    "fp32": ["--weights", "fp32"],
    "fp32, int8 cache": ["--weights", "fp32", "--cache", "int8"],
    "int8": ["--weights", "int8"],
    "int4": ["--weights", "int4"],
    "int4, zero points": ["--weights", "int4", "--zero-points"],
    "int4, block 128": ["--weights", "int4", "--block-size", "128"],
}
# Chosen before the model was trained.
QUICK_SORT = (
    "def quick_sort(arr):\n    if len(arr) <= 1:\n        return arr\n    pivot = arr[0]\n"
    "    left = []\n    right = []\n",
    "\n        if arr[i] < pivot:\n            left.append(arr[i])\n        else:\n"
    "            right.append(arr[i])\n    return quick_sort(left) + [pivot] + quick_sort(right)",
)
POINT = "class Point:\n    def __init__(self, x, y):\n        self.x = x\n"
LOOP = (
    "def count_lines(path):\n    total = 0\n    with open(path) as f:\n        for line in f:\n",
    "    return total\n",
)


def build(label: str, options: list[str], work: Path) -> tuple[Path, dict[str, Any]]:
    """Build an engine with the command line; return its folder and its certificate."""
    folder = work / label.replace(", ", "-").replace(" ", "-")
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "build", str(DEMO)]
    command += ["--out", str(folder), "--tokens", str(TOKENS), "--json", *options]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    built: dict[str, Any] = json.loads(result.stdout)
    parity: dict[str, Any] = built["parity"]
    return folder, {
        "bytes": built["bytes"],
        **{key: parity[key] for key in ("verdict", "logits", "texts", "gates")},
        "weights_only_kl": parity["weights_only_kl"],
    }


def answer(folder: Path) -> list[dict[str, str]]:
    """Return what the engine answers to the README's prompts, greedily."""
    found = []
    with open_engine(folder) as coder:
        for prompt in (
            "#写一个快速排序算法",
            "# write a quick sort algorithm\ndef quick_sort(arr):",
            POINT,
        ):
            text = coder.complete(prompt, max_tokens=128).text()
            found.append({"title": "Completion", "prompt": prompt, "answer": text})
        for prefix, suffix in (QUICK_SORT, LOOP):
            text = coder.fill(prefix, suffix, max_tokens=64).text()
            shown = f"{prefix}█{suffix}"
            found.append({"title": "Fill in the middle", "prompt": shown, "answer": text})
        for request in (
            "write a quick sort algorithm in python.",
            "Write a function that returns the n-th Fibonacci number.",
        ):
            text = coder.chat([{"role": "user", "content": request}], max_tokens=200).text()
            found.append({"title": "Chat", "prompt": request, "answer": text})
    return found


@click.command()
def main() -> None:
    """Build, measure and ask; print a table, then one JSON line."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        for label, options in VARIANTS.items():
            folder, rows[label] = build(label, options, Path(work))
            logits = rows[label]["logits"]
            click.echo(
                f"{label:<20} {rows[label]['bytes'] / 1e6:8.1f} MB   KL {logits['kl_mean']:.2e}   "
                f"top-1 {logits['top1_agreement']:.2%}   {rows[label]['verdict']}"
            )
            if label == "int4":
                samples = answer(folder)
    for sample in samples:
        click.echo(f"\n== {sample['title']}\n{sample['prompt']}\n--\n{sample['answer']}")
    keep("quality", {"environment": environment(), "engines": rows, "samples": samples})


if __name__ == "__main__":
    main()
