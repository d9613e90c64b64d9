"""Reads a checkpoint's generation_config.json: what ends an answer, and how tokens are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from trtcoder.bundle.manifest import SamplingDefaults
from trtcoder.checkpoint.side_files import read_object
from trtcoder.errors import CheckpointError

GENERATION_FILE = "generation_config.json"


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Return the file's object, empty without a file.

    Raises:
        CheckpointError: it cannot be read, or is no JSON object.
    """
    path = folder / GENERATION_FILE
    return read_object(path) if path.is_file() else {}


def end_tokens(path: Path, settings: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Return ``eos_token_id`` of ``settings``, a number or a list; ``path`` is named in errors.

    Raises:
        CheckpointError: it is not a token of a vocabulary of this size.
    """
    value = settings.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise CheckpointError(
                f"{path}: eos_token_id {token!r} is not a token of the vocabulary of {vocabulary:,}"
            )
    return tuple(ids)


def sampling_defaults(settings: Mapping[str, Any]) -> tuple[SamplingDefaults, list[str]]:
    """Return the file's defaults, and a note for each that is out of range and not used."""
    found: dict[str, Any] = {}
    notes = []
    for name in (field.name for field in fields(SamplingDefaults)):
        value = settings.get(name)
        if value is None:
            continue
        if not _in_range(name, value):
            notes.append(f"{GENERATION_FILE}: {name} {value!r:.40} is out of range and is not used")
        elif name == "do_sample":
            found[name] = value
        else:
            found[name] = int(value) if name == "top_k" else float(value)
    return SamplingDefaults(**found), notes


def _in_range(name: str, value: object) -> bool:
    if name == "do_sample":
        return isinstance(value, bool)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    if name == "top_k":
        return value == int(value) and 0 <= value < 1 << 31
    bounds = {"temperature": (0.0, 100.0), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0)}
    low, high = bounds.get(name, (0.01, 100.0))
    return low <= value <= high and not (name == "top_p" and value == 0)
