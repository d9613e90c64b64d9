"""Answers as llama-server writes them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.events import Chunk, Progress
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.filling import Filling
from trtcoder.runtime.server.llama_cpp.fields import LlamaFields
from trtcoder.runtime.server.llama_cpp.generation_settings import generation_settings
from trtcoder.runtime.server.llama_cpp.line_limits import LineLimits
from trtcoder.runtime.server.streams import event


@dataclass(slots=True)
class _Choice:
    limits: LineLimits
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    probabilities: list[dict[str, Any]] = field(default_factory=list)
    told: int = 0
    stop_type: str = "none"
    stopping_word: str = ""


class LlamaAnswer:
    """Reads the answers to a request and writes them."""

    def __init__(
        self,
        served: Served,
        body: LlamaFields,
        generation: AsyncGeneration | Filling,
        first_index: int = 0,
    ) -> None:
        """Take what is generated for one prompt, whose first answer is number ``first_index``."""
        self._served, self._body, self._generation = served, body, generation
        self._first = first_index
        self._choices = [
            _Choice(LineLimits(body.n_indent, body.t_max_predict_ms / 1000))
            for _ in range(generation.num_answers)
        ]

    async def whole(self) -> list[dict[str, Any]]:
        """Return the answers."""
        async for _ in self._pieces():
            pass
        return [self._final(index, choice.text) for index, choice in enumerate(self._choices)]

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield one event a piece and one last for each answer."""
        usage = self._generation.usage
        try:
            async for piece in self._pieces():
                if isinstance(piece, Progress):
                    if self._body.return_progress:
                        yield event(self._progress(piece))
                    continue
                index, text, chunk = piece
                choice = self._choices[index]
                if text:
                    told = {
                        "index": self._first + index,
                        "content": text,
                        "tokens": [] if chunk.token is None else [chunk.token],
                        "stop": False,
                        "id_slot": self._slot,
                        "tokens_predicted": len(choice.tokens),
                        "tokens_evaluated": usage.prompt_tokens,
                    }
                    if choice.probabilities:
                        told["completion_probabilities"] = choice.probabilities[choice.told :]
                        choice.told = len(choice.probabilities)
                    if self._body.timings_per_token:
                        told["timings"] = self._timings()
                    yield event(told)
                if choice.stop_type != "none":
                    yield event(self._final(index, ""))
        finally:
            self._generation.close()

    def _progress(self, progress: Progress) -> dict[str, Any]:
        """Return how much of the prompt is computed."""
        since = self._generation.usage.started
        elapsed = 0.0 if since is None else time.monotonic() - since
        return {
            "index": self._first,
            "content": "",
            "tokens": [],
            "stop": False,
            "id_slot": self._slot,
            "tokens_predicted": 0,
            "tokens_evaluated": progress.total,
            "prompt_progress": {
                "total": progress.total,
                "cache": progress.cached,
                "processed": progress.computed,
                "time_ms": round(1000 * elapsed),
            },
        }

    async def _pieces(self) -> AsyncIterator[tuple[int, str, Chunk] | Progress]:
        """Yield each answer's text as it comes, with the chunk; the last has its stop type.

        How much of the prompt is computed comes before, and that all of it is.
        """
        warms = self._body.n_predict == 0
        left = len(self._choices)
        is_computed = False
        try:
            while (chunk := await self._generation.next_event()) is not None:
                if isinstance(chunk, Progress):
                    yield chunk
                if not isinstance(chunk, Chunk):
                    continue
                if not is_computed:
                    is_computed = True
                    usage = self._generation.usage
                    total = usage.prompt_tokens
                    yield Progress(total, total, usage.cached_tokens)
                choice = self._choices[chunk.index]
                if choice.stop_type != "none":
                    continue
                if warms:
                    choice.stop_type = "limit"
                    left -= 1
                    yield chunk.index, "", chunk
                    continue
                text = choice.limits.push(chunk.text)
                self._note(choice, chunk, text)
                if choice.limits.is_over or chunk.finish_reason is not None:
                    rest = "" if choice.limits.is_over else choice.limits.finish()
                    choice.text += rest
                    choice.stop_type, choice.stopping_word = _stop(chunk)
                    left -= 1
                    text += rest
                if text or choice.stop_type != "none":
                    yield chunk.index, text, chunk
                if not left:
                    break
        finally:
            self._generation.close()

    def _note(self, choice: _Choice, chunk: Chunk, text: str) -> None:
        choice.text += text
        if chunk.token is None:
            return
        choice.tokens.append(chunk.token)
        if chunk.logprob is not None:
            chosen = self._token(chunk.token, chunk.logprob)
            top = [self._token(token, value) for token, value in chunk.top_logprobs]
            choice.probabilities.append({**chosen, "top_logprobs": top})

    def _token(self, token: int, value: float) -> dict[str, Any]:
        data = self._served.llm.tokenizer.token_bytes(token)
        text = data.decode("utf-8", "ignore")
        return {"id": token, "token": text, "bytes": list(data), "logprob": value}

    def _final(self, index: int, text: str) -> dict[str, Any]:
        choice, usage, body = self._choices[index], self._generation.usage, self._body
        seen = self._generation.prompt.seen if isinstance(self._generation, Filling) else None
        found: dict[str, Any] = {
            "index": self._first + index,
            "content": text,
            "tokens": choice.tokens if body.return_tokens and not body.stream else [],
            "id_slot": self._slot,
            "stop": True,
            "model": self._served.name,
            "tokens_predicted": len(choice.tokens),
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": {
                **generation_settings(self._source.params, seed=self._source.seed),
                "n_ctx": self._served.llm.context,
                "n_predict": body.n_predict,
                "stream": body.stream,
            },
            "prompt": self._prompt(),
            "has_new_line": "\n" in choice.text,
            "truncated": seen is not None and seen.is_cut,
            "stop_type": choice.stop_type,
            "stopping_word": choice.stopping_word,
            # The last token is told before its row is computed.
            "tokens_cached": usage.prompt_tokens + max(len(choice.tokens) - 1, 0),
            "timings": self._timings(),
        }
        if choice.probabilities and not body.stream:
            found["completion_probabilities"] = choice.probabilities
        return selected(found, body.response_fields)

    @property
    def _slot(self) -> int:
        # There are no slots: every request finds what any other has left in the cache.
        return max(self._body.id_slot, 0)

    @property
    def _source(self) -> AsyncGeneration:
        generation = self._generation
        return generation.generation if isinstance(generation, Filling) else generation

    def _prompt(self) -> str:
        """Return the prompt to be read; a client that names its fields without it gets none."""
        fields = self._body.response_fields
        if fields and "prompt" not in fields:
            return ""
        return self._served.llm.tokenizer.spell(self._source.prompt_ids)

    def _timings(self) -> dict[str, Any]:
        usage = self._generation.usage
        predicted = 0 if self._body.n_predict == 0 else usage.completion_tokens
        return {
            "cache_n": usage.cached_tokens,
            **_rates("prompt", usage.prompt_tokens - usage.cached_tokens, usage.prefill_seconds),
            **_rates("predicted", predicted, usage.decode_seconds),
        }


def selected(found: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    """Return the fields that are asked for; ``a/b`` is field b of a, and unknown ones are none."""
    if not fields:
        return found
    chosen: dict[str, Any] = {}
    for path in fields:
        value: Any = found
        for part in path.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            chosen[path] = value
    return chosen


_MISSING = object()


def _rates(name: str, count: int, seconds: float) -> dict[str, float]:
    milliseconds = 1000 * seconds
    return {
        f"{name}_n": count,
        f"{name}_ms": round(milliseconds, 3),
        f"{name}_per_token_ms": round(milliseconds / count, 3) if count else 0.0,
        f"{name}_per_second": round(count / seconds, 3) if seconds else 0.0,
    }


def _stop(chunk: Chunk) -> tuple[str, str]:
    """Return llama-server's stop type and the word that stopped."""
    if chunk.finish_reason == "stop":
        if isinstance(chunk.stop_reason, str):
            return "word", chunk.stop_reason
        return "eos", ""
    return "limit", ""
