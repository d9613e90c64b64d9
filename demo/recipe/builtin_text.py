"""Writes the built-in texts: the held-out set that judges, and the set that calibrates.

The held-out set comes from files that were never trained on, the calibration set from the others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from demo.recipe.corpus import SourceFile, load
from demo.recipe.examples import DOCSTRING_REQUESTS, cut, functions, pieces

DATA = Path(__file__).resolve().parents[2] / "calib" / "text" / "data"
HELD_OUT = {"plain": 24, "fim": 32, "chat": 32}
CALIBRATION = {"plain": 100, "fim": 120, "chat": 120}
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


def records(kind: str, rng: random.Random, held_out: bool) -> Iterator[Record]:
    """Return the records of a kind from the files of one part, at most two a file."""
    make = {"plain": plain, "fim": fim, "chat": chat}[kind]
    files = [file for file in load() if file.is_held_out == held_out]
    rng.shuffle(files)
    for file in files:
        found = list(make(file, rng))
        for record in rng.sample(found, min(2, len(found))):
            yield {"kind": kind, **record, "source": file.path, "licence": file.licence}


def write(name: str, counts: dict[str, int], seed: int, held_out: bool) -> None:
    """Write one set as JSON lines."""
    rng = random.Random(seed)
    DATA.mkdir(parents=True, exist_ok=True)
    with (DATA / name).open("w", encoding="utf-8") as out:
        for kind, count in counts.items():
            for _, record in zip(range(count), records(kind, rng, held_out), strict=False):
                out.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_all() -> None:
    """Write both sets."""
    write("heldout.jsonl", HELD_OUT, 20261124, held_out=True)
    write("calibration.jsonl", CALIBRATION, 20261125, held_out=False)


if __name__ == "__main__":
    write_all()
