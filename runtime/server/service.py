"""What every dialect does with an engine: choose it, ask it, count what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest

from trtcoder.errors import TrtcoderError
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.engines import Engines, Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.latencies import Latencies
from trtcoder.runtime.server.settings import ServerSettings
from trtcoder.runtime.server.streams import Stream
from trtcoder.runtime.server.work import Work


@dataclass(frozen=True, slots=True)
class Service:
    """The engines and the settings, for handlers; ``latencies`` counts what requests cost."""

    engines: Engines
    settings: ServerSettings
    latencies: Latencies = field(default_factory=Latencies)

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
        salt: str = "",
    ) -> AsyncGeneration:
        """Queue a prompt, whose constraint is compiled beside the event loop before.

        Requests share cached prefixes with those of the same key and the same ``salt``.

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
            salt=f"{client}\n{salt}" if salt else client,
            forced=forced,
        )
        try:
            generation = served.engine.start(request)
        except TrtcoderError as error:
            pace = served.llm.engine.thread.core.seconds_until_room()
            raise ApiError.of(error, pace) from error
        Work.of(http.scope["state"]).add(served.name, params, generation)
        return generation

    def stream(self, frames: Any, **options: Any) -> Stream:
        """Return a streamed response of ``frames``."""
        return Stream(frames, keep_alive_seconds=self.settings.keep_alive_seconds, **options)


def finish(reason: str | None) -> str | None:
    """Return OpenAI's word for a finish reason."""
    return "length" if reason == "context" else reason
