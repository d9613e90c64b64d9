"""One request from prompt ids to the last piece of text.

Prefill in chunks, then a loop of forward, sample, detokenize. It ends at an end-of-sequence
token, a stop string, the requested length or the end of the context, and never by failing there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import RequestError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.cache.blocks import BlockTable
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import Engine
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Sampler
from trtcoder.runtime.text.detokenizer import Detokenizer

FinishReason = Literal["stop", "length", "context"]
GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request has cost so far.

    ``prompt_tokens`` counts BOS and other control tokens, ``cached_tokens`` those of them that
    were still in the cache, ``completion_tokens`` every sampled token, also an end-of-sequence
    token. Seconds are of computation, without the time that the reader of the text took.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Rate after the first token, which prefill gives; None before a second one."""
        if self.completion_tokens < 2 or self.decode_seconds == 0.0:
            return None
        return (self.completion_tokens - 1) / self.decode_seconds


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sampled token and the text that became certain with it, often none.

    The last chunk has a finish reason: ``stop`` (end-of-sequence token or stop string),
    ``length`` (the requested number of tokens) or ``context`` (no room for another token).
    """

    text: str
    token: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Generation(Iterator[Chunk]):
    """The chunks of one answer; ``usage`` and ``finish_reason`` follow as they are read."""

    seed: int
    usage: Usage
    finish_reason: FinishReason | None = None
    _steps: Iterator[Chunk] = field(default_factory=lambda: iter(()))

    def __next__(self) -> Chunk:
        chunk = next(self._steps)
        self.finish_reason = chunk.finish_reason
        return chunk

    def text(self) -> str:
        """Read what is left and return its text."""
        return "".join(chunk.text for chunk in self)

    def close(self) -> None:
        """End here; nothing more is computed."""
        self._steps = iter(())


class Generator:
    """Generates one answer at a time, in one sequence of the engine's cache."""

    def __init__(self, engine: Engine, tokenizer: TextTokenizer) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._eos = frozenset(engine.manifest.tokens.eos)
        self._table = BlockTable(engine.cache)
        self._cached: list[int] = []
        self._current: Generation | None = None
        self.context = min(engine.max_positions, engine.cache.num_rows)

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams = GREEDY,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        strip_leading_space: bool = False,
        reuse_prefix: bool = False,
    ) -> Generation:
        """Start an answer; the one before it, if unfinished, ends.

        Args:
            prompt_ids: the whole prompt, with BOS.
            params: how tokens are chosen.
            max_tokens: the most tokens to sample; None goes on to the end of the context.
            stop: strings that end the answer; they are not part of it.
            strip_leading_space: drop one space at the start of the answer.
            reuse_prefix: keep what the cache already holds of this prompt, as the next turn of a
                chat wants. The kernels round differently for one token and for many, so the
                same seed may then give another text than a fresh start.

        Raises:
            RequestError: the prompt is empty or longer than the context, or a parameter is bad.
        """
        prompt = list(prompt_ids)
        if not prompt:
            raise RequestError("the prompt is empty")
        if max_tokens is not None and max_tokens < 1:
            raise RequestError(f"max_tokens is {max_tokens}; it must be at least 1")
        if len(prompt) > self.context:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, and the context holds {self.context}; "
                "shorten it"
            )
        detokenizer = Detokenizer(self._tokenizer, stop, strip_leading_space=strip_leading_space)
        sampler = Sampler(params, prompt, self._engine.vocab_size)
        if self._current is not None:
            self._current.close()
        generation = Generation(sampler.seed, Usage(len(prompt)))
        limit = self.context if max_tokens is None else max_tokens
        generation._steps = self._steps(
            generation, prompt, sampler, detokenizer, limit, reuse_prefix
        )
        self._current = generation
        return generation

    def close(self) -> None:
        """End the current answer and free its cache blocks."""
        if self._current is not None:
            self._current.close()
        self._forget(0)

    def _steps(
        self,
        generation: Generation,
        prompt: list[int],
        sampler: Sampler,
        detokenizer: Detokenizer,
        max_tokens: int,
        reuse_prefix: bool,
    ) -> Iterator[Chunk]:
        started = time.perf_counter()
        self._forget(self._common_prefix(prompt) if reuse_prefix else 0)
        cached = len(self._cached)
        logits = self._prefill(prompt)
        while True:
            sample = sampler.sample(logits[0])
            usage = generation.usage
            count = usage.completion_tokens + 1
            elapsed = time.perf_counter() - started
            if count == 1:
                usage = replace(usage, cached_tokens=cached, prefill_seconds=elapsed)
            else:
                usage = replace(usage, decode_seconds=usage.decode_seconds + elapsed)
            generation.usage = replace(usage, completion_tokens=count)
            text, reason = "", self._finish_reason(sample.token, count, max_tokens)
            if sample.token not in self._eos:
                text = detokenizer.push(sample.token)
            if detokenizer.stopped_by is not None:
                reason = "stop"
            elif reason is not None:
                text += detokenizer.finish()
            yield Chunk(text, sample.token, reason, sample.logprob, sample.top_logprobs)
            if reason is not None:
                return
            started = time.perf_counter()
            logits = self._forward([sample.token])

    def _finish_reason(self, token: int, count: int, max_tokens: int) -> FinishReason | None:
        if token in self._eos:
            return "stop"
        if count >= max_tokens:
            return "length"
        if len(self._cached) >= self.context or not self._has_room():
            return "context"
        return None

    def _has_room(self) -> bool:
        # Other sequences may hold the rest of the cache.
        return self._table.num_tokens < self._table.capacity or (
            self._engine.cache.num_free_blocks > 0
        )

    def _prefill(self, prompt: list[int]) -> NDArray[np.float32]:
        size = self._engine.prefill_chunk(len(prompt))
        while len(prompt) - len(self._cached) > size:
            start = len(self._cached)
            self._forward(prompt[start : start + size], sample=False)
        return self._forward(prompt[len(self._cached) :])

    def _forward(self, tokens: list[int], *, sample: bool = True) -> NDArray[np.float32]:
        """Run the next tokens of the sequence; on any failure it is as it was before."""
        before = self._table.num_tokens
        try:
            if not self._table.append(len(tokens)):
                raise RequestError(
                    f"the cache has no room for {len(tokens)} more tokens; "
                    "end other requests or shorten the prompt"
                )
            logits = self._engine.forward(
                PackedBatch.of_sequence(tokens, self._table, sample=sample)
            )
            self._cached += tokens
        except BaseException:
            self._table.truncate(before)
            del self._cached[before:]
            raise
        return logits

    def _common_prefix(self, prompt: list[int]) -> int:
        """Return how many cached tokens begin the prompt; its last token is always run anew."""
        count = 0
        for ours, theirs in zip(self._cached, prompt[:-1], strict=False):
            if ours != theirs:
                break
            count += 1
        return count

    def _forget(self, keep: int) -> None:
        self._table.truncate(keep)
        del self._cached[keep:]
