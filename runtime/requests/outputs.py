"""Whole answers, in the form that vLLM's offline batches have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trtcoder.runtime.requests.events import (
    Chunk,
    FinishReason,
    PromptLogprobs,
    TokenLogprob,
)
from trtcoder.runtime.requests.usage import Usage


@dataclass(slots=True)
class CompletionOutput:
    """One answer.

    Attributes:
        index: its number among those to one prompt.
        text: of the answer.
        token_ids: that were sampled, with the end-of-sequence token.
        finish_reason, stop_reason: as in `Chunk`.
        logprobs: of each token, where asked for, and the most likely ones at its place.
        cumulative_logprob: their sum.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: list[tuple[float, tuple[TokenLogprob, ...]]] | None = None
    cumulative_logprob: float | None = None

    def add(self, chunk: Chunk) -> None:
        """Go on by one chunk."""
        self.text += chunk.text
        if chunk.token is not None:
            self.token_ids.append(chunk.token)
        self.finish_reason, self.stop_reason = chunk.finish_reason, chunk.stop_reason
        if chunk.logprob is not None:
            self.logprobs = [*(self.logprobs or []), (chunk.logprob, chunk.top_logprobs)]
            self.cumulative_logprob = (self.cumulative_logprob or 0.0) + chunk.logprob


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its answers.

    Attributes:
        prompt: the text, where text was given.
        prompt_token_ids: what the model saw.
        outputs: one for each of ``n``.
        usage: what they cost.
        prompt_logprobs: where they were asked for.
    """

    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: list[CompletionOutput]
    usage: Usage
    prompt_logprobs: PromptLogprobs | None = None


def collect(chunks: Iterable[Chunk], count: int) -> list[CompletionOutput]:
    """Read all chunks of ``count`` answers."""
    outputs = [CompletionOutput(index) for index in range(count)]
    for chunk in chunks:
        outputs[chunk.index].add(chunk)
    return outputs
