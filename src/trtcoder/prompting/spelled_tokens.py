"""Control tokens that a text spells: they are text, and their author may not know it."""

from __future__ import annotations

import re
from collections.abc import Iterable

# DeepSeek's bars are U+FF5C and its low lines U+2581; ASCII look-alikes are written for them.
_MARKER = re.compile(r"<[|｜][^<>|｜\s]{1,60}[|｜]>")
_FOLDED = str.maketrans({"｜": "|", "▁": "_"})


def spelled_tokens(text: str, control: Iterable[str]) -> list[str]:
    """Return what in ``text`` spells a token of ``control`` or looks like one, each once."""
    known = list(control)
    folded = {_folded(token) for token in known}
    found = [marker for marker in _MARKER.findall(text) if _folded(marker) in folded]
    found += [token for token in known if not _MARKER.fullmatch(token) and token in text]
    return list(dict.fromkeys(found))


def _folded(token: str) -> str:
    return token.translate(_FOLDED).lower()
