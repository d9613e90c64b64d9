"""What every dialect does with an engine: choose it, ask it, count what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest

from trtcoder.errors import TrtcoderError
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.engines import Engines, Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.settings import ServerSettings
from trtcoder.runtime.server.streams import Stream


@dataclass(frozen=True, slots=True)
class Service:
    """The engines and the settings, for handlers."""

    engines: Engines
    settings: ServerSettings

    @classmethod
    def of(cls, request: HttpRequest) -> Service:
        """Return the service of the app that a request came to."""
        service: Service = request.app.state.service
        return service

    def limit(self, served: Served, asked: int | None) -> int:
        """Return the most tokens of an answer, where a request gives none too."""
        most = served.llm.context
        return min(self.settings.max_answer_tokens, most) if asked is None else min(asked, most)

    async def start(
        self,
        served: Served,
        http: HttpRequest,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        strip_leading_space: bool = False,
        forced: bytes = b"",
    ) -> AsyncGeneration:
        """Queue a prompt, whose constraint is compiled beside the event loop before.

        Raises:
            ApiError: 400 or 429; nothing is queued.
            RequestError: the constraint is malformed, or asks for what cannot be held.
        """
        if params.constraint is not None:
            matcher = served.llm.engine.thread.core.constraints.matcher
            await asyncio.to_thread(matcher, params.constraint, spaced=strip_leading_space)
        client = http.scope["state"].get("client", "")
        request = Request(
            tuple(prompt_ids),
            params,
            strip_leading_space,
            client=client,
            salt=client,
            forced=forced,
        )
        try:
            generation = served.engine.start(request)
        except TrtcoderError as error:
            pace = served.llm.engine.thread.core.seconds_until_room()
            raise ApiError.of(error, pace) from error
        work = http.scope["state"].get("work")
        if work is not None:  # somebody traces it
            work.add(served.name, params, generation)
        return generation

    def stream(self, frames: Any, **options: Any) -> Stream:
        """Return a streamed response of ``frames``."""
        return Stream(frames, keep_alive_seconds=self.settings.keep_alive_seconds, **options)


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


def finish(reason: str | None) -> str | None:
    """Return OpenAI's word for a finish reason."""
    return "length" if reason == "context" else reason
