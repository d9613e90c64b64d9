"""Engines on their way, with as large a cache as the memory that is free allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from trtcoder.bundle.folder import Bundle
from trtcoder.runtime.cache.budget import tokens_that_fit
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.llm import LLM


def begin_loading(folders: Sequence[Path], settings: EngineSettings) -> dict[Path, Future[LLM]]:
    """Load engines one after another in a thread of their own, one given twice only once."""
    pool = ThreadPoolExecutor(1, "trtcoder-loading")
    loading: dict[Path, Future[LLM]] = {}
    for folder in folders:
        if folder not in loading:
            loading[folder] = pool.submit(load, folder, settings)
    pool.shutdown(wait=False)
    return loading


def load(folder: Path, settings: EngineSettings) -> LLM:
    """Load an engine; where its cache's size is not chosen, free memory chooses it.

    Raises:
        EngineError: it cannot be loaded.
    """
    if settings.cache_tokens is None:
        manifest = Bundle.load(folder, verify_hashes=False).manifest
        fitting = tokens_that_fit(manifest, settings.context)
        settings = dataclasses.replace(settings, cache_tokens=fitting)
    return LLM(folder, settings=settings)
