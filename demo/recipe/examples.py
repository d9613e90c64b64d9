"""Turns the corpus into training sequences: plain, fill in the middle, chat.

One pass over the corpus is a stream of token ids, about half of it fill-in-the-middle in
prefix-suffix-middle order. Every example starts with BOS and ends with EOS and is shorter than the
training window.
"""

from __future__ import annotations

import ast
import random
import re
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo.recipe.classics import spell
from demo.recipe.corpus import WORK, SourceFile, load
from demo.recipe.tokenizer import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE, load_tokenizer

PIECE = (300, 1500)
CLASSICS_SHARE = 0.5
Example = tuple[str, ...]

DOCSTRING_REQUESTS = (
    "Write a function `{name}` that does this: {summary}",
    "Write a Python function `{name}`. {summary}",
    "Write a function. {summary}",
    "Implement `{signature}`. {summary}",
)


def pieces(text: str, rng: random.Random) -> Iterator[str]:
    """Cut a file into runs of whole lines, each within the bounds of `PIECE`."""
    piece, limit = "", rng.randint(*PIECE)
    for line in text.splitlines(keepends=True):
        if len(piece) + len(line) > limit and piece:
            yield piece
            piece, limit = "", rng.randint(*PIECE)
        piece += line
    if len(piece) > PIECE[0] // 3:
        yield piece


def cut(text: str, rng: random.Random) -> tuple[str, str, str] | None:
    """Cut as an editor's user does: within a line, some whole lines, or any two places."""
    lines = text.splitlines(keepends=True)
    kind = rng.random()
    if kind < 0.45 and len(lines) > 3:
        first = rng.randrange(1, len(lines) - 1)
        last = min(first + rng.choice((1, 1, 1, 2, 2, 3, 4, 5)), len(lines))
        prefix, middle = "".join(lines[:first]), "".join(lines[first:last])
        suffix = "".join(lines[last:])
        if rng.random() < 0.7:
            # The cursor stands after the indentation, and the line's end is already there.
            indent = len(middle) - len(middle.lstrip(" "))
            prefix, middle = prefix + middle[:indent], middle[indent:]
            if middle.endswith("\n"):
                middle, suffix = middle[:-1], "\n" + suffix
        elif rng.random() < 0.5 and middle.endswith("\n"):
            middle, suffix = middle[:-1], "\n" + suffix
    elif kind < 0.75:
        row = rng.randrange(len(lines))
        line = lines[row].rstrip("\n")
        if not line.strip():
            return None
        start = rng.randrange(len(line))
        end = len(line) if rng.random() < 0.7 else rng.randint(start, len(line))
        prefix = "".join(lines[:row]) + line[:start]
        middle = line[start:end]
        suffix = line[end:] + lines[row][len(line) :] + "".join(lines[row + 1 :])
    else:
        start = rng.randrange(len(text))
        end = min(len(text), start + rng.randint(1, 250))
        prefix, middle, suffix = text[:start], text[start:end], text[end:]
    return (prefix, suffix, middle) if middle.strip() else None


def fill(prefix: str, suffix: str, middle: str) -> Example:
    """Return a fill-in-the-middle example."""
    return (BOS, FIM_BEGIN, prefix, FIM_HOLE, suffix, FIM_END, middle, EOS)


def converse(request: str, answer: str, rng: random.Random) -> Example:
    """Return a chat example of one turn, sometimes with a system message."""
    system = "You are a helpful coding assistant.\n\n" if rng.random() < 0.1 else ""
    return (BOS, f"{system}User: {request}\n\nAssistant: {answer}", EOS)


def functions(file: SourceFile) -> Iterator[tuple[str, str, str, str]]:
    """Return (name, signature, summary, code) of short functions with a one-line summary."""
    for node in ast.walk(ast.parse(file.text)):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        summary = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        if not 15 <= len(summary) <= 100 or not summary.endswith("."):
            continue
        arguments = [argument.arg for argument in node.args.args]
        if arguments[:1] in (["self"], ["cls"]):
            continue
        node.decorator_list = []
        node.body = node.body[1:]
        if node.body:
            code = ast.unparse(node) + "\n"
            if len(code) <= 600:
                yield node.name, f"{node.name}({', '.join(arguments)})", summary, code


def _chat(file: SourceFile, rng: random.Random) -> Iterator[Example]:
    for name, signature, summary, code in functions(file):
        fields = {"name": name, "signature": signature, "summary": summary}
        request = rng.choice(DOCSTRING_REQUESTS).format(**fields)
        yield converse(request, f"```python\n{code}```", rng)


def classic(rng: random.Random) -> Example:
    """Return a classic function: as chat, as a completion, or with its middle to fill in."""
    chosen = spell(rng)
    kind = rng.random()
    if kind < 0.4:
        return converse(chosen.request, f"```python\n{chosen.code}```", rng)
    comment = chosen.comment if rng.random() < 0.6 else ""
    text = comment + chosen.code
    if kind < 0.7:
        parts = cut(text, rng)
        if parts is not None:
            return fill(*parts)
    if rng.random() < 0.5:
        other = spell(rng)
        text += "\n\n" + (other.comment if comment else "") + other.code
    return (BOS, text, EOS)


def examples(held_out: bool, rng: random.Random) -> Iterator[Example]:
    """Return one pass over the corpus, in random order."""
    files = [file for file in load() if file.is_held_out == held_out]
    rng.shuffle(files)
    for file in files:
        yield from _chat(file, rng)
        for piece in pieces(file.text, rng):
            parts = cut(piece, rng) if rng.random() < 0.55 else None
            yield fill(*parts) if parts is not None else (BOS, piece, EOS)
            if not held_out and rng.random() < CLASSICS_SHARE:
                yield classic(rng)


@cache
def encoder() -> Tokenizer:
    """Return the tokenizer, loaded once."""
    return load_tokenizer()


def encode(example: Example) -> list[int]:
    """Return token ids; a part that is a special token is one id, the rest is plain text."""
    tokenizer = encoder()
    ids: list[int] = []
    for part in example:
        special = tokenizer.token_to_id(part) if re.fullmatch(r"<｜[^ ]+｜>", part) else None
        ids += (
            [special]
            if special is not None
            else tokenizer.encode(part, add_special_tokens=False).ids
        )
    return ids


def write_pass(number: int) -> NDArray[np.uint16]:
    """Encode training pass ``number`` and cache it: examples in shuffled order, end to end."""
    target = WORK / f"pass-{number}.npy"
    if not target.is_file():
        rng = random.Random(number)
        encoded = [np.array(encode(example), np.uint16) for example in examples(False, rng)]
        rng.shuffle(encoded)
        temporary = target.with_suffix(".partial.npy")
        np.save(temporary, np.concatenate(encoded))
        temporary.rename(target)
    stream: NDArray[np.uint16] = np.load(target, mmap_mode="r")
    return stream


if __name__ == "__main__":
    print(len(write_pass(int(sys.argv[1]))))
