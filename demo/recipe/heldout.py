"""Writes the held-out set that `trtcoder verify` judges with: text that was never trained on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from demo.recipe.corpus import SourceFile, load
from demo.recipe.examples import DOCSTRING_REQUESTS, cut, functions, pieces

TARGET = Path(__file__).resolve().parents[2] / "calib" / "data" / "heldout.jsonl"
COUNTS = {"plain": 24, "fim": 32, "chat": 32}
Record = dict[str, object]


def plain(file: SourceFile, rng: random.Random) -> Iterator[Record]:
    """Return runs of whole lines."""
    for piece in pieces(file.text, rng):
        if "def " in piece:  # code, not a page of imports or prose
            yield {"text": piece}


def fim(file: SourceFile, rng: random.Random) -> Iterator[Record]:
    """Return pieces cut as an editor's user does."""
    for piece in pieces(file.text, rng):
        parts = cut(piece, rng) if "def " in piece else None
        if parts is not None:
            prefix, suffix, middle = parts
            yield {"prefix": prefix, "suffix": suffix, "middle": middle}


def chat(file: SourceFile, rng: random.Random) -> Iterator[Record]:
    """Return requests made from docstrings, with the function as the answer."""
    for name, signature, summary, code in functions(file):
        fields = {"name": name, "signature": signature, "summary": summary}
        request = rng.choice(DOCSTRING_REQUESTS).format(**fields)
        answer = f"```python\n{code}```"
        yield {
            "messages": [
                {"role": "user", "content": request},
                {"role": "assistant", "content": answer},
            ]
        }


def records(kind: str, rng: random.Random) -> Iterator[Record]:
    """Return the records of a kind from every held-out file, at most two a file."""
    make = {"plain": plain, "fim": fim, "chat": chat}[kind]
    files = [file for file in load() if file.is_held_out]
    rng.shuffle(files)
    for file in files:
        found = list(make(file, rng))
        for record in rng.sample(found, min(2, len(found))):
            yield {"kind": kind, **record, "source": file.path, "licence": file.licence}


def write() -> None:
    """Write the built-in set."""
    rng = random.Random(20261124)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with TARGET.open("w", encoding="utf-8") as out:
        for kind, count in COUNTS.items():
            for _, record in zip(range(count), records(kind, rng), strict=False):
                out.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
