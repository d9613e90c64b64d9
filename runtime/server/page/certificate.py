"""A certificate in three lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trtcoder.bundle.manifest import Manifest

_WORDS = {
    "good": "good",
    "poor": "poor: it loses as much as weights of 3 bits do",
    "broken": "broken: its answers will not make sense",
}


def certificate_lines(manifest: Manifest) -> list[str]:
    """Return what was built, how it was judged, and by which numbers; each is one line."""
    found: Mapping[str, Any] | None = manifest.parity
    if found is None:
        return [
            _built(manifest),
            "No certificate: it was not compared with its reference.",
            "To compare it: trtcoder verify ENGINE --reference CHECKPOINT",
        ]
    return [_built(manifest), _judged(found), _measured(found)]


def _built(manifest: Manifest) -> str:
    recipe = manifest.recipe
    size = sum(file.bytes for file in manifest.files.values())
    parts = [manifest.model.name]
    if isinstance(recipe.get("weights"), str):
        parts.append(f"{recipe['weights']} weights")
    if isinstance(recipe.get("cache"), str):
        parts.append(f"{recipe['cache']} cache")
    return ", ".join([*parts, f"{size / 1e6:,.1f}\N{NO-BREAK SPACE}MB"])


def _judged(found: Mapping[str, Any]) -> str:
    verdict = {"passed": "Passed every limit that it is held to", "failed": "Missed a limit"}.get(
        str(found.get("verdict")), "Measured against no limit"
    )
    quality = found.get("quality")
    return f"{verdict}; {_WORDS[quality]}." if quality in _WORDS else f"{verdict}."


def _measured(found: Mapping[str, Any]) -> str:
    kl, same, tokens = (found.get(key) for key in ("kl_mean", "top1_agreement", "tokens"))
    if not all(map(_is_number, (kl, same, tokens))):
        return "Its numbers are in the report."
    return (
        f"KL {kl:.2g} nats from the reference, the same top token at {same:.1%} of "
        f"{tokens:,} positions."
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
