"""From a request to its tokens: engine, sampler, prompts, detokenizer, generation.

`open_engine` loads an engine folder; everything else is imported when it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtcoder.runtime.coder import Coder

__all__ = ["open_engine"]


def open_engine(folder: str | Path, *, threads: int | None = None) -> Coder:
    """Load an engine folder and return an object that completes, fills and chats.

    >>> coder = open_engine("engines/lite")                                # doctest: +SKIP
    >>> for chunk in coder.complete("# quick sort in Python", max_tokens=64):  # doctest: +SKIP
    ...     print(chunk.text, end="", flush=True)

    Raises:
        DependencyError: onnxruntime is not installed.
        EngineError: the folder does not match its manifest, or cannot run here.
    """
    from trtcoder.runtime.coder import open_coder

    return open_coder(folder, threads=threads)
