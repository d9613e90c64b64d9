"""What a request has had an engine do, for metrics and traces."""

from __future__ import annotations

from typing import Any

from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.sampling.params import SamplingParams


class Work:
    """The generations of one HTTP request.

    Attributes:
        model: the name of the engine that was asked; empty where none was.
        params: of the sampler; None where nothing was generated.
        generations: that were queued, one a prompt.
    """

    def __init__(self) -> None:
        self.model = ""
        self.params: SamplingParams | None = None
        self.generations: list[AsyncGeneration] = []

    @classmethod
    def of(cls, state: dict[str, Any]) -> Work:
        """Return the work of the request whose ASGI state this is."""
        work: Work = state.setdefault("work", cls())
        return work

    def add(self, model: str, params: SamplingParams, generation: AsyncGeneration) -> None:
        """Note a generation that has been queued."""
        self.model, self.params = model, params
        self.generations.append(generation)

    @property
    def failure(self) -> Exception | None:
        """What a generation failed with, also where the response had begun."""
        return next((each.failure for each in self.generations if each.failure), None)
