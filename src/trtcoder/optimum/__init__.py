"""Optimum's two doors: its command line writes engines, and a model of its kind runs them.

>>> from trtcoder.optimum import EngineForCausalLM                               # doctest: +SKIP

Names are imported when they are first used: optimum-cli imports this package each time it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcoder.optimum.causal_lm import EngineForCausalLM

__all__ = ["EngineForCausalLM"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trtcoder.optimum import causal_lm

    return getattr(causal_lm, name)
