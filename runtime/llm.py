"""The library's face: an engine that answers one prompt or many."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import RequestError
from trtcoder.progress import step_progress
from trtcoder.prompting.prompts import Capability, Message
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.loading import load_engine
from trtcoder.runtime.requests.generation import Generation, OnProgress
from trtcoder.runtime.requests.inputs import Prompt, as_messages, as_prompts
from trtcoder.runtime.requests.outputs import RequestOutput, collect
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingOptions, SamplingParams

Chat = Sequence[Message | Mapping[str, str]]
# Requests that a batch keeps in the engine for each answer that can run.
_AHEAD = 4


class LLM:
    """An engine folder, loaded. Its methods may be called from several threads at once.

    ``generate``, ``chat`` and ``fill`` take one prompt or a list and return whole answers, in the
    order of the prompts; the methods that begin with ``stream`` take one and return its chunks as
    they come. Parameters of sampling are given as `SamplingParams`, as keywords, or both.

    Attributes:
        manifest: what the engine's folder says about it.
        settings: how it runs.
        engine: the parts that it is made of.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        max_model_len: int | None = None,
        tensor_parallel_size: int = 1,
        trust_remote_code: bool = False,
        enforce_eager: bool = False,
        settings: EngineSettings | None = None,
        capability: Capability | None = None,
        verify_hashes: bool = True,
    ) -> None:
        """Load an engine folder.

        Args:
            model: what `trtcoder build` made.
            max_model_len: most tokens of a prompt and its answer; the model's context if None.
            tensor_parallel_size: 1; vLLM's name, for programs that were written for it.
            trust_remote_code, enforce_eager: vLLM's names; an engine has no code to trust, and
                nothing that is captured.
            settings: everything else, in place of ``max_model_len``.
            capability: refuse at once, before anything heavy, when the model lacks it.
            verify_hashes: compare every file with its hash while the graph loads.

        Raises:
            DependencyError: onnxruntime is not installed.
            EngineError: the folder does not match its manifest, or cannot run here.
            RequestError: a setting is out of range, or the model lacks ``capability``.
        """
        if tensor_parallel_size != 1:
            raise RequestError(
                f"tensor_parallel_size is {tensor_parallel_size}; an engine of this target runs "
                "as one part, so it must be 1"
            )
        if settings is not None and max_model_len is not None:
            raise RequestError("max_model_len: give it as context in the settings")
        self.settings = settings or EngineSettings(context=max_model_len)
        self.engine = load_engine(
            model, self.settings, verify_hashes=verify_hashes, capability=capability
        )
        self.manifest: Manifest = self.engine.manifest
        self.prompts = self.engine.prompts
        self.tokenizer = self.engine.tokenizer

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self.engine.thread.core.context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is running; later requests are refused."""
        self.engine.thread.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        progress: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[RequestOutput]:
        """Continue each prompt; the answers do not repeat it.

        Args:
            prompts: text, which gets BOS in front, or token ids, which are taken as they are; one
                or a list.
            sampling_params: for all of them, or one for each.
            prompt_token_ids: token ids, in place of ``prompts``.
            progress: show a bar; by default in a terminal, for more than one prompt.
            sampling: single parameters, in place of ``sampling_params``.

        Raises:
            RequestError: a prompt or a parameter is wrong; nothing was computed then.
        """
        found = as_prompts(prompts, prompt_token_ids)
        requests = [
            (text, self.prompts.completion(text) if text is not None else ids)
            for text, ids in found
        ]
        params = _params(sampling_params, sampling, len(requests))
        return self._answer(requests, params, progress)

    def chat(
        self,
        messages: Chat | Sequence[Chat],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[RequestOutput]:
        """Write the next answer of a conversation, or of each of a list of conversations."""
        chats = as_messages(messages)
        requests = [(None, self.prompts.chat(chat)) for chat in chats]
        params = _params(sampling_params, sampling, len(requests))
        spaced = self.prompts.spaced_answers
        return self._answer(requests, params, progress, strip_leading_space=spaced)

    def fill(
        self,
        holes: tuple[str, str] | Sequence[tuple[str, str]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[RequestOutput]:
        """Write what goes between prefix and suffix, of one pair or of each of a list."""
        pairs = [holes] if isinstance(holes, tuple) else list(holes)
        requests = [(None, self.prompts.fim(prefix, suffix)) for prefix, suffix in pairs]
        params = _params(sampling_params, sampling, len(requests))
        return self._answer(requests, params, progress)

    def stream(
        self,
        prompt: str | Sequence[int],
        sampling_params: SamplingParams | None = None,
        *,
        on_progress: OnProgress | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Continue ``prompt``, chunk by chunk; ``on_progress`` is told of a long prompt."""
        ids = self.prompts.completion(prompt) if isinstance(prompt, str) else list(prompt)
        return self._start(ids, sampling_params, sampling, on_progress)

    def stream_chat(
        self,
        messages: Chat,
        sampling_params: SamplingParams | None = None,
        *,
        on_progress: OnProgress | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Write the next answer of a conversation, chunk by chunk."""
        ids = self.prompts.chat(messages)
        spaced = self.prompts.spaced_answers
        return self._start(ids, sampling_params, sampling, on_progress, strip_leading_space=spaced)

    def stream_fill(
        self,
        prefix: str,
        suffix: str,
        sampling_params: SamplingParams | None = None,
        *,
        on_progress: OnProgress | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Write what goes between ``prefix`` and ``suffix``, chunk by chunk."""
        ids = self.prompts.fim(prefix, suffix)
        return self._start(ids, sampling_params, sampling, on_progress)

    def _start(
        self,
        ids: Sequence[int],
        given: SamplingParams | None,
        sampling: SamplingOptions,
        on_progress: OnProgress | None,
        *,
        strip_leading_space: bool = False,
    ) -> Generation:
        params = one_params(given, sampling)
        request = Request(tuple(ids), params, strip_leading_space)
        return Generation(self.engine.thread, request, on_progress)

    def _answer(
        self,
        requests: Sequence[tuple[str | None, Sequence[int]]],
        params: Sequence[SamplingParams],
        progress: bool | None,
        *,
        strip_leading_space: bool = False,
    ) -> list[RequestOutput]:
        """Answer all requests, a window of them in the engine at a time."""
        asked = [
            Request(tuple(ids), each, strip_leading_space)
            for (_, ids), each in zip(requests, params, strict=True)
        ]
        core = self.engine.thread.core
        for request in asked:
            core.prepare(request, lambda event: None)
        window = min(self.settings.max_queue, _AHEAD * self.settings.max_batch)
        running: deque[Generation] = deque()
        outputs: list[RequestOutput] = []
        waiting = iter(asked)
        shown = sys.stderr.isatty() and len(asked) > 1 if progress is None else progress
        bar = step_progress("answering", len(asked)) if shown else nullcontext(_unseen)
        try:
            with bar as advance:
                while len(outputs) < len(asked):
                    while sum(each.num_answers for each in running) < window:
                        following = next(waiting, None)
                        if following is None:
                            break
                        running.append(Generation(self.engine.thread, following))
                    generation = running.popleft()
                    answers = collect(generation, generation.num_answers)
                    text, ids = requests[len(outputs)]
                    outputs.append(
                        RequestOutput(
                            text, tuple(ids), answers, generation.usage, generation.prompt_logprobs
                        )
                    )
                    advance(1, "")
        finally:
            for generation in running:
                generation.close()
        return outputs


def open_engine(
    folder: str | Path,
    *,
    threads: int | None = None,
    context: int | None = None,
    speculate: bool | None = None,
    capability: Capability | None = None,
) -> LLM:
    """Load an engine folder; see `LLM`.

    >>> with open_engine("engines/lite") as llm:                                # doctest: +SKIP
    ...     for chunk in llm.stream("# quick sort in Python", max_tokens=64):
    ...         print(chunk.text, end="", flush=True)

    Args:
        folder: what `trtcoder build` made.
        threads: of the matrix products; by default the cores that may be used.
        context: most tokens of a prompt and its answer; by default the model's context.
        speculate: as in `EngineSettings`.
        capability: refuse at once when the model lacks it.
    """
    settings = EngineSettings(threads=threads, context=context, speculate=speculate)
    return LLM(folder, settings=settings, capability=capability)


def one_params(given: SamplingParams | None, sampling: SamplingOptions) -> SamplingParams:
    """Return the parameters of one request.

    Raises:
        RequestError: both forms are given, or a value is out of range.
    """
    return _params(given, sampling, 1)[0]


def _params(
    given: SamplingParams | Sequence[SamplingParams] | None,
    sampling: SamplingOptions,
    count: int,
) -> list[SamplingParams]:
    """Return parameters for each of ``count`` requests."""
    if given is not None and sampling:
        raise RequestError(
            f"{', '.join(sampling)}: given beside sampling_params; give one or the other"
        )
    if given is None:
        return [SamplingParams(**sampling)] * count
    if isinstance(given, SamplingParams):
        return [given] * count
    if len(given) != count:
        raise RequestError(f"sampling_params: {len(given)} for {count} prompts")
    return list(given)


def _unseen(amount: int, item: str) -> None:
    """Take progress that is not shown."""
