"""JSON as every reader takes it: no NaN, no Infinity, nothing that a terminal obeys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# What JSON may hold as it is and a terminal obeys: DEL and C1. (It escapes C0 itself.)
_OBEYED = re.compile(r"[\x7f-\x9f\ud800-\udfff]")


def dumps(
    value: Any, *, indent: int | None = None, sort_keys: bool = False, ascii_only: bool = False
) -> str:
    """Return ``value`` as JSON, in which a number that is not finite is null."""
    text = json.dumps(
        _finite_or_none(value),
        ensure_ascii=ascii_only,
        allow_nan=False,
        indent=indent,
        sort_keys=sort_keys,
    )
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
