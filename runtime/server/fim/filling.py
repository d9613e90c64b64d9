"""A request to fill a hole: its prompt, and its answers as they come."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest

from trtcoder.prompting.filling import FillPrompt, Hole, fill_prompt
from trtcoder.prompting.line_ends import LineEnds
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.chunks import Chunks
from trtcoder.runtime.requests.events import Chunk, Progress, PromptLogprobs
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import MAX_STOPS, SamplingParams
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.middle import Middle
from trtcoder.runtime.server.fim.options import FimOptions
from trtcoder.runtime.server.service import Service

# Text of so many characters is encoded beside the loop, which would stand still meanwhile.
_LONG = 50_000
CUT_HEADER = "x-trtcoder-context-cut"


@dataclass(slots=True, eq=False)
class Filling(Chunks):
    """The chunks of the answers to one hole.

    Attributes:
        generation: that the engine does.
        prompt: what the model was given.
    """

    generation: AsyncGeneration
    prompt: FillPrompt
    _middles: list[Middle]
    _done: set[int] = field(default_factory=set)

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self.generation.usage

    @property
    def num_answers(self) -> int:
        """Answers that were asked for."""
        return self.generation.num_answers

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What the model saw."""
        return self.generation.prompt_ids

    @property
    def prompt_logprobs(self) -> PromptLogprobs | None:
        """Log-probabilities of the prompt, where they were asked for."""
        return self.generation.prompt_logprobs

    @property
    def headers(self) -> dict[str, str]:
        """What a response says of a text that did not fit: tokens before and behind the hole."""
        seen = self.prompt.seen
        if not seen.is_cut:
            return {}
        before, behind = (all_ - kept for all_, kept in zip(seen.tokens, seen.kept, strict=True))
        return {CUT_HEADER: f"before={before}, behind={behind}"}

    def close(self) -> None:
        """End here; nothing more is computed."""
        self.generation.close()

    async def next_event(self) -> Chunk | Progress | PromptLogprobs | None:
        """Return what comes next; None at the end.

        Raises:
            TrtcoderError: the request failed.
        """
        while len(self._done) < self.num_answers:
            event = await self.generation.next_event()
            if event is None:
                return None
            if not isinstance(event, Chunk):
                return event
            if event.index not in self._done:
                return self._edited(event)
        self.close()
        return None

    def _edited(self, chunk: Chunk) -> Chunk:
        middle = self._middles[chunk.index]
        text, reason = middle.push(chunk.text), chunk.finish_reason
        if middle.is_done and reason is None:
            reason = self.generation.finish_reasons[chunk.index] = "stop"
        if reason is not None:
            text += middle.finish()
            self._done.add(chunk.index)
        return dataclasses.replace(chunk, text=text, finish_reason=reason)


async def start_filling(
    service: Service,
    served: Served,
    http: HttpRequest,
    hole: Hole,
    params: SamplingParams,
    asked: FimOptions | None,
    *,
    asked_tokens: int | None = None,
    salt: str = "",
) -> Filling:
    """Queue a hole; what does not fit into the context is cut round it.

    Args:
        service: of the app.
        served: the engine.
        http: the request.
        hole: as the client sent it.
        params: of the sampler.
        asked: the object ``trtcoder`` of the request.
        asked_tokens: the client's own limit of the answer, for which the context keeps room.
        salt: prefixes are shared among requests of the same one.

    Raises:
        ApiError: the queue is full or a parameter is wrong.
        RequestError: the model was not trained to fill in the middle, or the middle cannot have
            the form that is asked for.
    """
    asked = asked or FimOptions()
    options = asked.over(service.settings.fim)
    # What is forced at the cursor is none of the form: only who asks for both is refused.
    heals = options.heals and (params.constraint is None or asked.heal is True)
    ends = LineEnds.of(hole.prefix, hole.suffix)
    hole = Hole(*(ends.for_model(text) for text in (hole.prefix, hole.suffix, hole.begun)))
    context = served.llm.context
    # An answer that could take all of the context leaves the text three quarters of it.
    room = context - min(asked_tokens or context, context // 4)

    def build() -> FillPrompt:
        return fill_prompt(served.llm.prompts, hole, room, heal=heals, anchored=options.anchored)

    is_long = len(hole.prefix) + len(hole.suffix) > _LONG
    prompt = await asyncio.to_thread(build) if is_long else build()
    if options.single_line:
        # What comes behind a line break never ends an answer before it.
        kept = [stop for stop in params.stop if "\n" not in stop]
        params = dataclasses.replace(
            params, stop=["\n", *kept[: MAX_STOPS - 1]], include_stop=False
        )
    generation = await service.start(
        served, http, prompt.ids, params, forced=prompt.forced, salt=salt
    )
    middles = [
        Middle(hole.suffix, ends, trims=options.trim_suffix) for _ in range(generation.num_answers)
    ]
    return Filling(generation, prompt, middles)
