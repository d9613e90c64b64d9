"""What a request has cost, as OpenAI's clients read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.server.fields import StreamOptions


def usage_of(*usages: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object of the prompts of a request together."""
    prompt = sum(usage.prompt_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
    }


def counted(prompt: Sequence[int]) -> dict[str, Any]:
    """Return how many tokens a prompt has, as OpenAI tells it."""
    return {"object": "response.input_tokens", "input_tokens": len(prompt)}


class StreamUsage:
    """When a stream tells its usage: never, in a last chunk, or in each chunk as it stands.

    Attributes:
        is_asked: a last chunk tells it.
        is_continuous: so does each chunk before, which is vLLM's extension.
    """

    def __init__(self, options: StreamOptions | None, read: Callable[[], dict[str, Any]]) -> None:
        """Take the request's options, and what reads the usage."""
        self.is_asked = options is not None and bool(options.include_usage)
        self.is_continuous = (
            self.is_asked and options is not None and bool(options.continuous_usage_stats)
        )
        self._read = read
        self._told = 0

    def count(self, chunk: Chunk) -> None:
        """Take a chunk that is about to be told."""
        self._told += chunk.token is not None

    def of_chunk(self) -> dict[str, Any]:
        """Return the usage of a chunk that is not the last; nothing where none is asked for.

        It counts the tokens that the stream has told, of which the engine has sampled more.
        """
        if not self.is_asked:
            return {}
        if not self.is_continuous:
            return {"usage": None}
        usage = self._read()
        total = usage["prompt_tokens"] + self._told
        return {"usage": {**usage, "completion_tokens": self._told, "total_tokens": total}}
