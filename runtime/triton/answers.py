"""The answers to one request as they come, and the tensors that go out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.requests.outputs import CompletionOutput
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.triton.asked import Asked
from trtcoder.runtime.triton.llmapi import OUTPUT
from trtcoder.runtime.triton.reply import Outputs


@dataclass(slots=True)
class Answers:
    """What the answers to one request have come to.

    Attributes:
        asked: the request.
        usage: what it costs; counted by the engine.
        block_size: tokens of a block of the cache.
    """

    asked: Asked
    usage: Usage
    block_size: int
    _answers: list[CompletionOutput] = field(init=False)
    _sent: list[int] = field(init=False)
    _open: int = field(init=False)
    _begun: bool = False

    def __post_init__(self) -> None:
        count = self.asked.request.params.n
        self._answers = [CompletionOutput(index) for index in range(count)]
        self._sent = [0] * count
        self._open = count

    @property
    def is_over(self) -> bool:
        """Whether all answers have ended."""
        return self._open == 0

    @property
    def has_news(self) -> bool:
        """Whether there is text that `take` has not given out."""
        return any(len(a.text) > sent for a, sent in zip(self._answers, self._sent, strict=True))

    def add(self, chunk: Chunk) -> None:
        """Go on by one chunk."""
        answer = self._answers[chunk.index]
        answer.add(chunk)
        if chunk.finish_reason is not None:
            self._open -= 1

    def cancelled(self) -> None:
        """Note that an answer was ended before its time."""
        self._open -= 1

    def take(self) -> Outputs:
        """Return the next response's tensors: of a stream a part, otherwise all."""
        asked = self.asked
        deltas = asked.streaming and asked.deltas
        before = "" if deltas and self._begun else asked.before
        texts = [
            before + (answer.text[sent:] if deltas else answer.text)
            for answer, sent in zip(self._answers, self._sent, strict=True)
        ]
        self._begun = True
        self._sent = [len(answer.text) for answer in self._answers]
        found = {"text_output": OUTPUT["text_output"].array(texts)}
        if asked.finish_reason:
            # The words of TensorRT-LLM, which calls an answer that goes on None.
            reasons = [_finish(answer) for answer in self._answers]
            found["finish_reason"] = OUTPUT["finish_reason"].array(reasons)
        if asked.stop_reason:
            stops = [str(answer.stop_reason) for answer in self._answers]
            found["stop_reason"] = OUTPUT["stop_reason"].array(stops)
        if asked.cumulative_logprob:
            sums = [answer.cumulative_logprob or 0.0 for answer in self._answers]
            found["cumulative_logprob"] = OUTPUT["cumulative_logprob"].array(sums)
        if asked.log_probs:
            found["output_log_probs"] = self._log_probs()
        if asked.input_tokens:
            found["num_input_tokens"] = _one("num_input_tokens", self.usage.prompt_tokens)
        if asked.output_tokens:
            found["num_output_tokens"] = _one("num_output_tokens", self.usage.completion_tokens)
        if asked.metrics and self.is_over:
            found |= self._metrics()
        return found

    def _log_probs(self) -> NDArray[Any]:
        """Return those of all tokens, a row an answer; shorter rows end in zeros."""
        rows = [[value for value, _ in answer.logprobs or ()] for answer in self._answers]
        longest = max(map(len, rows))
        padded = [[*row, *[0.0] * (longest - len(row))] for row in rows]
        return OUTPUT["output_log_probs"].array(padded, (len(rows), longest))

    def _metrics(self) -> Outputs:
        usage, size = self.usage, self.block_size
        reused = usage.cached_tokens // size
        missed = -(-usage.prompt_tokens // size) - reused
        total = -(-(usage.prompt_tokens + usage.completion_tokens) // size)
        values: dict[str, float] = {
            "kv_cache_reused_block": reused,
            "kv_cache_missed_block": missed,
            "kv_cache_alloc_new_blocks": max(0, total - reused),
            "kv_cache_alloc_total_blocks": total,
            "kv_cache_hit_rate": reused / (reused + missed),
            "arrival_time_ns": _ns(usage.queued),
            "first_scheduled_time_ns": _ns(usage.started),
            "first_token_time_ns": _ns(usage.first_token),
            "last_token_time_ns": _ns(usage.last_token),
            # No token is guessed before it is computed.
            "acceptance_rate": 0.0,
            "total_accepted_draft_tokens": 0,
            "total_draft_tokens": 0,
        }
        return {name: _one(name, value) for name, value in values.items()}


def _finish(answer: CompletionOutput) -> str:
    # For want of room in the context is for want of length.
    return "length" if answer.finish_reason == "context" else str(answer.finish_reason)


def _one(name: str, value: float) -> NDArray[Any]:
    return OUTPUT[name].array([value])


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else round(seconds * 1e9)
