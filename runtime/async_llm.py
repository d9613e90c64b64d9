"""The library's face for programs that run an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from trtcoder.prompting.prompts import Message
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.llm import LLM, one_params
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.outputs import CompletionOutput, RequestOutput
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingOptions, SamplingParams

Chat = Sequence[Message | Mapping[str, str]]


class AsyncLLM:
    """`LLM` for an event loop: one prompt a call, as many calls at a time as you like.

    ``generate``, ``chat`` and ``fill`` return a whole `RequestOutput`; the methods that begin with
    ``stream`` return an asynchronous iterator of chunks.
    """

    def __init__(self, llm: LLM) -> None:
        """Take an engine that is loaded; see `open`."""
        self.llm = llm

    @classmethod
    async def open(cls, model: str | Path, settings: EngineSettings | None = None) -> Self:
        """Load an engine folder without holding up the loop; errors as `LLM` raises them."""
        return cls(await asyncio.to_thread(lambda: LLM(model, settings=settings)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is running; later requests are refused."""
        await asyncio.to_thread(self.llm.close)

    async def generate(
        self,
        prompt: str | Sequence[int],
        sampling_params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> RequestOutput:
        """Continue ``prompt``, text or token ids."""
        text = prompt if isinstance(prompt, str) else None
        return await _whole(self.stream(prompt, sampling_params, **sampling), text)

    async def chat(
        self,
        messages: Chat,
        sampling_params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> RequestOutput:
        """Write the next answer of a conversation."""
        return await _whole(self.stream_chat(messages, sampling_params, **sampling))

    async def fill(
        self,
        prefix: str,
        suffix: str,
        sampling_params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> RequestOutput:
        """Write what goes between ``prefix`` and ``suffix``."""
        return await _whole(self.stream_fill(prefix, suffix, sampling_params, **sampling))

    def stream(
        self,
        prompt: str | Sequence[int],
        sampling_params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncGeneration:
        """Continue ``prompt``, chunk by chunk."""
        prompts = self.llm.prompts
        ids = prompts.completion(prompt) if isinstance(prompt, str) else prompt
        return self.start(Request(tuple(ids), one_params(sampling_params, sampling)))

    def stream_chat(
        self,
        messages: Chat,
        sampling_params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncGeneration:
        """Write the next answer of a conversation, chunk by chunk."""
        ids = self.llm.prompts.chat(messages)
        params = one_params(sampling_params, sampling)
        spaced = self.llm.prompts.spaced_answers
        return self.start(Request(tuple(ids), params, strip_leading_space=spaced))

    def stream_fill(
        self,
        prefix: str,
        suffix: str,
        sampling_params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncGeneration:
        """Write what goes between ``prefix`` and ``suffix``, chunk by chunk."""
        ids = self.llm.prompts.fim(prefix, suffix)
        return self.start(Request(tuple(ids), one_params(sampling_params, sampling)))

    def start(self, request: Request) -> AsyncGeneration:
        """Queue a request whose prompt is made already."""
        return AsyncGeneration(self.llm.engine.thread, request)


async def _whole(generation: AsyncGeneration, prompt: str | None = None) -> RequestOutput:
    """Read a generation to its end; it ends where the reader's task is cancelled."""
    outputs = [CompletionOutput(index) for index in range(generation.num_answers)]
    try:
        async for chunk in generation:
            outputs[chunk.index].add(chunk)
    finally:
        generation.close()
    return RequestOutput(
        prompt, generation.prompt_ids, outputs, generation.usage, generation.prompt_logprobs
    )
