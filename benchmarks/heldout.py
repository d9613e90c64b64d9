"""The built-in held-out text in two parts: one to choose by, one to judge by.

`trtcoder build` compares an engine with the first 2,322 tokens, and `make bench-fp8` with the
first part. Whoever picks a size, a default or a method has seen those figures, so what is picked
is judged on the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trtcoder.calib.text.examples import EncodedText
from trtcoder.calib.text.heldout import load_heldout
from trtcoder.prompting.prompts import Prompts

CHOOSING_TOKENS = 8192
# More than the built-in set holds.
ALL_TOKENS = 1 << 20
# Tokens in a row that make two sequences share a passage.
SHARED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class HeldoutParts:
    """Both parts; ``dropped`` are sequences of the rest that share a passage with `choosing`."""

    choosing: tuple[EncodedText, ...]
    judging: tuple[EncodedText, ...]
    dropped: tuple[EncodedText, ...]

    def describe(self) -> dict[str, Any]:
        """Return sequences, tokens and kinds of each part."""
        return {
            "source": "built-in",
            "choosing": _describe(self.choosing),
            "judging": _describe(self.judging),
            "dropped": _describe(self.dropped),
        }


def split_heldout(prompts: Prompts) -> HeldoutParts:
    """Return the built-in held-out text as `HeldoutParts`."""
    choosing = load_heldout(prompts, CHOOSING_TOKENS)
    every = load_heldout(prompts, ALL_TOKENS)
    seen = {passage for sequence in choosing for passage in _passages(sequence)}
    rest = [sequence for sequence in every if sequence not in choosing]
    fresh = [sequence for sequence in rest if seen.isdisjoint(_passages(sequence))]
    dropped = [sequence for sequence in rest if sequence not in fresh]
    return HeldoutParts(tuple(choosing), tuple(fresh), tuple(dropped))


def _passages(sequence: EncodedText) -> Iterator[tuple[int, ...]]:
    for start in range(len(sequence.ids) - SHARED_TOKENS + 1):
        yield sequence.ids[start : start + SHARED_TOKENS]


def _describe(sequences: Sequence[EncodedText]) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    for sequence in sequences:
        kinds[sequence.kind] += len(sequence.ids)
    return {"sequences": len(sequences), "tokens": kinds.total(), "kinds": dict(kinds)}
