"""Held-out text: what an engine is judged on, and what never calibrates or trains."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trtcoder.calib.text.examples import (
    EncodedText,
    Record,
    encode_records,
    passages,
    read_built_in,
    read_records,
)
from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Prompts


class Part(enum.Enum):
    """Halves of the held-out text: what is chosen by the one is judged by the other."""

    JUDGED = "judged"
    SEARCHED = "searched"


def load_heldout(
    prompts: Prompts, max_tokens: int, path: Path | None = None, part: Part | None = None
) -> list[EncodedText]:
    """Return sequences of the kinds that the engine can serve, about ``max_tokens`` tokens in all.

    ``path`` is a file of JSON lines (see `trtcoder.calib.text.examples`); the built-in set is used
    without one, and all of it without ``part``.

    Raises:
        RequestError: the file is missing or malformed, or holds nothing that can be used.
    """
    records = read_records(path) if path else read_built_in("heldout")
    source = path or "the built-in held-out set"
    chosen = encode_records(_part(records, part), prompts, max_tokens)
    if chosen:
        return chosen
    if part is not None and encode_records(records, prompts, 1):
        raise RequestError(
            f"{source}: is too little to search a precision on one half and to judge it on the "
            "other; give more examples, or name a precision with --weights"
        )
    raise RequestError(f"{source}: holds no text that this engine can serve")


def _part(records: Sequence[Record], part: Part | None) -> Sequence[Record]:
    """Return every second record of each kind; or of the others, those that share no passage."""
    if part is None:
        return records
    judged: list[Record] = []
    others: list[Record] = []
    seen: Counter[str] = Counter()
    for record in records:
        (others if seen[record["kind"]] % 2 else judged).append(record)
        seen[record["kind"]] += 1
    if part is Part.JUDGED:
        return judged
    known = {passage for record in judged for passage in passages(record)}
    return [record for record in others if known.isdisjoint(passages(record))]
