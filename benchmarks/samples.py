"""What the demo model's int4 engine answers to the README's prompts, greedily."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.engines import build_engine
from benchmarks.record import keep
from trtcoder import open_engine

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


def answer(folder: Path) -> list[dict[str, str]]:
    """Return what the engine answers to each prompt."""
    found = []
    with open_engine(folder) as llm:
        for prompt in (
            "#写一个快速排序算法",
            "# write a quick sort algorithm\ndef quick_sort(arr):",
            POINT,
        ):
            text = llm.stream(prompt, max_tokens=128).text()
            found.append({"title": "Completion", "prompt": prompt, "answer": text})
        for prefix, suffix in (QUICK_SORT, LOOP):
            text = llm.stream_fill(prefix, suffix, max_tokens=64).text()
            shown = f"{prefix}█{suffix}"
            found.append({"title": "Fill in the middle", "prompt": shown, "answer": text})
        for request in (
            "write a quick sort algorithm in python.",
            "Write a function that returns the n-th Fibonacci number.",
        ):
            text = llm.stream_chat([{"role": "user", "content": request}], max_tokens=200).text()
            found.append({"title": "Chat", "prompt": request, "answer": text})
    return found


@click.command()
def main() -> None:
    """Build, ask and print, then one JSON line."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "demo-int4"
        build_engine(folder, ["--weights", "int4"])
        samples = answer(folder)
    for sample in samples:
        click.echo(f"== {sample['title']}\n{sample['prompt']}\n--\n{sample['answer']}\n")
    keep("samples", {"samples": samples})


if __name__ == "__main__":
    main()
