"""How good an engine is, in a word: good, poor or broken.

The measure is the share of the context that is lost: the mean KL from the reference over what the
reference's predictions owe to their context (docs/decisions/0011-good-poor-broken.md). It has no
unit, so that one scale holds for every model and every precision.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

Quality = Literal["good", "poor", "broken"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

# What 3 bits a weight lose, rounded to nearest: an engine of 4 or more that loses it is poor.
GOOD = 0.03
# What 2 bits a weight lose, rounded to nearest: from here on the answers do not make sense.
FLOOR = 0.20
# Nats below which a context says nothing: text of one token, or a model that ignores it.
_LEAST_NATS = 1e-6


def lost_context(kl_mean: float, context_nats: float) -> float:
    """Return the share of ``context_nats`` that an engine with ``kl_mean`` loses; NaN stays NaN."""
    return kl_mean / max(context_nats, _LEAST_NATS)


def describe(quality: str, lost: float | None) -> str:
    """Return the word and what it rests on, for a sentence's end."""
    if lost is None:
        return quality
    if quality == "good":
        return f"good: it keeps {1 - lost:.1%} of what the context tells the model"
    if math.isnan(lost) or lost <= {"poor": GOOD, "broken": FLOOR}.get(quality, 0.0):
        return f"{quality}: its gates say why"
    text = f"{quality}: it loses {min(lost, 1):.1%} of what the context tells the model"
    if quality == "broken":
        return f"{text}, its answers will not make sense"
    return f"{text}, as weights of 3 bits do"
