"""trtcoder: DeepSeek-Coder-V2 checkpoints to verified engines, and answers from them.

>>> from trtcoder import LLM, SamplingParams, open_engine                        # doctest: +SKIP

Names are imported when they are first used, so that ``import trtcoder`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcoder.export.build import BuildOptions, build
    from trtcoder.prompting.auto_tokenizer import AutoTokenizer
    from trtcoder.runtime.async_llm import AsyncLLM
    from trtcoder.runtime.constraints.constraint import Constraint
    from trtcoder.runtime.llm import LLM, open_engine
    from trtcoder.runtime.sampling.params import SamplingParams

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncLLM",
    "AutoTokenizer",
    "BuildOptions",
    "Constraint",
    "SamplingParams",
    "build",
    "open_engine",
]

_MODULES = {
    "LLM": "trtcoder.runtime.llm",
    "AsyncLLM": "trtcoder.runtime.async_llm",
    "BuildOptions": "trtcoder.export.build",
    "build": "trtcoder.export.build",
    "AutoTokenizer": "trtcoder.prompting.auto_tokenizer",
    "Constraint": "trtcoder.runtime.constraints.constraint",
    "SamplingParams": "trtcoder.runtime.sampling.params",
    "open_engine": "trtcoder.runtime.llm",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
