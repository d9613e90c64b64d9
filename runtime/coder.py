"""The runtime behind three methods: complete, fill and chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import EngineError
from trtcoder.prompting.prompts import Capability, Message, Prompts, require
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.runner import Engine
from trtcoder.runtime.requests.generation import GREEDY, Generation, Generator
from trtcoder.runtime.sampling.params import SamplingParams


class Coder:
    """An engine with its tokenizer and prompt formats; answers one request at a time.

    Each method returns a `Generation`: iterate over it to stream, or call its ``text()``.
    """

    def __init__(self, engine: Engine, tokenizer: TextTokenizer) -> None:
        self.manifest: Manifest = engine.manifest
        self.tokenizer = tokenizer
        self.prompts = Prompts(engine.manifest, tokenizer)
        self.generator = Generator(engine, tokenizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.generator.close()

    def complete(
        self,
        prompt: str,
        params: SamplingParams = GREEDY,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Continue ``prompt``; the answer does not repeat it."""
        ids = self.prompts.completion(prompt)
        return self.generator.generate(ids, params, max_tokens=max_tokens, stop=stop)

    def fill(
        self,
        prefix: str,
        suffix: str,
        params: SamplingParams = GREEDY,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Write what goes between ``prefix`` and ``suffix``."""
        ids = self.prompts.fim(prefix, suffix)
        return self.generator.generate(ids, params, max_tokens=max_tokens, stop=stop)

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        params: SamplingParams = GREEDY,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        reuse_prefix: bool = False,
    ) -> Generation:
        """Write the next answer of a chat; ``reuse_prefix`` as in `Generator.generate`."""
        return self.generator.generate(
            self.prompts.chat(messages),
            params,
            max_tokens=max_tokens,
            stop=stop,
            strip_leading_space=True,
            reuse_prefix=reuse_prefix,
        )


def open_coder(
    folder: str | Path,
    *,
    threads: int | None = None,
    cache_tokens: int | None = None,
    verify_hashes: bool = True,
    capability: Capability | None = None,
) -> Coder:
    """Load an engine folder.

    Args:
        folder: what `trtcoder build` made.
        threads: threads of the matrix products; by default the cores that may be used.
        cache_tokens: tokens that the cache can hold; by default the model's context.
        verify_hashes: compare every file with its hash while the graph loads.
        capability: refuse at once, before anything heavy, when the model lacks it.

    Raises:
        DependencyError: onnxruntime is not installed.
        EngineError: the folder does not match its manifest, or cannot run here.
        RequestError: the model lacks ``capability``.
    """
    bundle = Bundle.load(folder, verify_hashes=False)
    if capability is not None:
        require(bundle.manifest, capability)
    with ThreadPoolExecutor(1) as pool:
        hashes = pool.submit(bundle.verify_hashes) if verify_hashes else None
        try:
            engine = Engine(bundle, threads=threads, cache_tokens=cache_tokens)
            tokenizer = TextTokenizer.load(bundle.tokenizer_path, _control_ids(bundle.manifest))
        except EngineError:
            # A changed file explains a load that failed better than the load does.
            if hashes is not None:
                hashes.result()
            raise
        if hashes is not None:
            hashes.result()
    return Coder(engine, tokenizer)


def _control_ids(manifest: Manifest) -> list[int]:
    tokens = manifest.tokens
    found = (tokens.bos, *tokens.eos, tokens.fim_begin, tokens.fim_hole, tokens.fim_end)
    return [token for token in found if token is not None]
