"""From an engine's folder to a running engine."""

from __future__ import annotations

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest, SamplingDefaults
from trtcoder.errors import EngineError
from trtcoder.prompting.prompts import Capability, Prompts, require
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.cache.prefix_store import PrefixStore
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.engine_thread import EngineThread
from trtcoder.runtime.engine.model import Model
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.engine.slots.gpu import GpuPlans
from trtcoder.runtime.engine.slots.runner import SlotRunner
from trtcoder.runtime.sampling.params import SamplingParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that takes requests.

    Attributes:
        manifest: what the folder says about itself.
        tokenizer: text to ids and back.
        prompts: makes prompts for its model.
        thread: runs it.
        runs_on: whose operators do, in words.
    """

    manifest: Manifest
    tokenizer: TextTokenizer
    prompts: Prompts
    thread: EngineThread
    runs_on: str


def load_engine(
    folder: str | Path,
    settings: EngineSettings,
    *,
    verify_hashes: bool = True,
    capability: Capability | None = None,
) -> LoadedEngine:
    """Load an engine folder and start its thread.

    Args:
        folder: what `trtcoder build` made.
        settings: how to run it.
        verify_hashes: compare every file with its hash while the graph loads.
        capability: refuse at once, before anything heavy, when the model lacks it.

    Raises:
        DependencyError: onnxruntime is not installed.
        EngineError: the folder does not match its manifest, or cannot run here.
        RequestError: the model lacks ``capability``, or its context is shorter than asked for.
    """
    bundle = Bundle.load(folder, verify_hashes=False)
    manifest = bundle.manifest
    if capability is not None:
        require(manifest, capability)
    with ThreadPoolExecutor(1) as pool:
        hashes = pool.submit(bundle.verify_hashes) if verify_hashes else None
        try:
            runner = open_model(bundle, settings)
            prompts = Prompts.load(bundle.folder, manifest)
        except EngineError:
            # A changed file explains a load that failed better than the load does.
            if hashes is not None:
                hashes.result()
            raise
        if hashes is not None:
            hashes.result()
    settings = dataclasses.replace(
        settings, sampling=settings.sampling.resolved(model_defaults(manifest.sampling))
    )
    store = None
    if settings.prefix_store is not None and not settings.deterministic:
        # The other operators' rows are as good, but not the same bits.
        rows = "stock" if runner.choice.library is None else "kernels"
        store = PrefixStore(
            settings.prefix_store, f"{bundle.fingerprint()}-{rows}", settings.prefix_store_bytes
        )
    level = logging.WARNING if runner.choice.is_broken else logging.INFO
    _log.log(level, "%s runs on %s", folder, runner.choice)
    core = EngineCore(runner, prompts.tokenizer, settings, store)
    return LoadedEngine(
        manifest, prompts.tokenizer, prompts, EngineThread(core), str(runner.choice)
    )


def open_model(bundle: Bundle, settings: EngineSettings) -> Model:
    """Return what runs an engine's model here: its plans, or its graph.

    Raises:
        DependencyError: a package or a driver is missing.
        EngineError: it cannot run here.
    """
    if bundle.manifest.compiled is not None:
        return SlotRunner(bundle, GpuPlans(bundle))
    return ModelRunner(
        bundle,
        threads=settings.threads,
        cache_tokens=settings.cache_tokens or settings.context,
    )


def model_defaults(sampling: SamplingDefaults) -> SamplingParams:
    """Return what the checkpoint's authors advise, as far as their file says it."""
    temperature = sampling.temperature
    if sampling.do_sample is False:
        temperature = 0.0
    elif sampling.do_sample and temperature is None:
        temperature = 1.0
    return SamplingParams(
        temperature=temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
    )
