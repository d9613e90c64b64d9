"""Measures the checkpoint on held-out text, with the reference implementation's own arithmetic.

Prints nats per byte of plain text, of the middle of fill-in-the-middle examples and of chat
answers, all from files that were never trained on; then the classics, which were.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterable

import torch
from torch.nn import functional

from demo.recipe.corpus import load
from demo.recipe.examples import Example, classic, converse, cut, encode, fill, functions, pieces
from demo.recipe.model import DemoModel
from demo.recipe.tokenizer import BOS, EOS, FIM_END
from demo.recipe.train import STATE, WINDOW

COUNT = 300


def held_out(kind: str, rng: random.Random) -> Iterable[Example]:
    """Return examples of a kind in random order."""
    files = [file for file in load() if file.is_held_out]
    rng.shuffle(files)
    for file in files:
        if kind == "chat":
            for name, _, summary, code in functions(file):
                request = f"Write a Python function `{name}`. {summary}"
                yield converse(request, f"```python\n{code}```", rng)
            continue
        for piece in pieces(file.text, rng):
            parts = cut(piece, rng) if kind == "fim" else None
            if kind == "plain":
                yield (BOS, piece, EOS)
            elif parts is not None:
                yield fill(*parts)


def scored(example: Example) -> tuple[list[int], int, int]:
    """Return ids, the first id that counts, and how many bytes of text count."""
    if FIM_END in example:
        split = example.index(FIM_END) + 1
        prompt, answer = example[:split], example[split:]
    elif "Assistant:" in example[1]:
        before, _, after = example[1].partition("Assistant:")
        prompt, answer = (BOS, f"{before}Assistant:"), (after, EOS)
    else:
        prompt, answer = example[:1], example[1:]
    first = encode(prompt)
    text = "".join(part for part in answer if part != EOS)
    return first + encode(answer), len(first), len(text.encode())


@torch.inference_mode()
def nats_per_byte(model: DemoModel, examples: Iterable[Example]) -> dict[str, float]:
    """Return the mean over the scored bytes of ``COUNT`` examples."""
    nats = 0.0
    tokens = size = 0
    for example in itertools.islice(examples, COUNT):
        ids, start, length = scored(example)
        if len(ids) > WINDOW:
            continue
        row = torch.tensor(ids)
        logits = model(row[None, :-1])[0, start - 1 :]
        nats += functional.cross_entropy(logits, row[start:], reduction="sum").item()
        tokens += len(ids) - start
        size += length
    return {
        "nats_per_byte": round(nats / size, 4),
        "perplexity_per_token": round(math.exp(nats / tokens), 3),
        "tokens": tokens,
        "bytes": size,
    }


def evaluate() -> dict[str, dict[str, float]]:
    """Return the figures of each kind of text."""
    torch.set_num_threads(2)
    model = DemoModel()
    trained = torch.load(STATE, weights_only=True, mmap=True)["model"]
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in trained.items()})
    model.eval()
    rng = random.Random(1)
    results = {kind: nats_per_byte(model, held_out(kind, rng)) for kind in ("plain", "fim", "chat")}
    results["classics"] = nats_per_byte(model, (classic(rng) for _ in range(COUNT)))
    return results


if __name__ == "__main__":
    for kind, result in evaluate().items():
        print(f"{kind:10} {json.dumps(result)}")
