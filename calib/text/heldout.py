"""Held-out text: what an engine is judged on, and what never calibrates or trains."""

from __future__ import annotations

from pathlib import Path

from trtcoder.calib.text.examples import (
    EncodedText,
    encode_records,
    read_built_in,
    read_records,
)
from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Prompts


def load_heldout(prompts: Prompts, max_tokens: int, path: Path | None = None) -> list[EncodedText]:
    """Return sequences of the kinds that the engine can serve, about ``max_tokens`` tokens in all.

    ``path`` is a file of JSON lines (see `trtcoder.calib.text.examples`); the built-in set is used
    without one.

    Raises:
        RequestError: the file is missing or malformed, or holds nothing that can be used.
    """
    records = read_records(path) if path else read_built_in("heldout")
    chosen = encode_records(records, prompts, max_tokens)
    if not chosen:
        source = path or "the built-in held-out set"
        raise RequestError(f"{source}: holds no text that this engine can serve")
    return chosen
