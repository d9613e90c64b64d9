"""A conversation of any dialect on its way through the engine: one prompt, one reading."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.constraint import Constraint
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.filling import Filling
from trtcoder.runtime.server.service import Service, finish
from trtcoder.runtime.server.tools.grammar import calling
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, CallReader, Piece, Text
from trtcoder.runtime.server.tools.spelling import as_messages
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall
from trtcoder.runtime.server.tools.turn import Turn


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said, and what may be answered.

    Attributes:
        turns: the messages.
        box: the tools.
        form: that the answer's text must have; None leaves it free.
        continues: the last turn is the beginning of the answer.
        begins: what the format writes before an answer ends the prompt.
    """

    turns: tuple[Turn, ...]
    box: ToolBox = field(default_factory=ToolBox)
    form: Constraint | None = None
    continues: bool = False
    begins: bool = True

    def prompt(self, served: Served) -> list[int]:
        """Return the prompt.

        Raises:
            RequestError: the engine does not chat, or its format refuses the messages.
        """
        if not self.turns:
            raise RequestError("messages: a chat needs at least one message")
        messages = as_messages(self.turns, self.box.offered)
        return served.llm.prompts.chat(
            messages, continue_last=self.continues, begin_answer=self.begins
        )

    def constraint(self) -> Constraint | None:
        """Return the form of the whole answer."""
        return calling(self.box, self.form)

    async def start(
        self,
        service: Service,
        served: Served,
        http: HttpRequest,
        params: SamplingParams,
        *,
        cut: Callable[[list[int]], list[int]] = lambda ids: ids,
        salt: str = "",
    ) -> Talk:
        """Queue the conversation; ``params`` hold its `constraint`.

        Args:
            service: of the app.
            served: the engine.
            http: the request.
            params: of the sampler.
            cut: what a client wants left out of the prompt.
            salt: prefixes are shared among requests of the same one.

        Raises:
            RequestError: it is malformed; nothing is queued.
            ApiError: the queue is full.
        """
        ids = cut(self.prompt(served))
        spaced = served.llm.prompts.spaced_answers and self.begins and not self.continues
        generation = await service.start(
            served, http, ids, params, strip_leading_space=spaced, salt=salt
        )
        return Talk(generation, reads_calls=bool(self.box.offered))


@dataclass(slots=True)
class Said:
    """A whole answer."""

    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[Any] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take a piece."""
        match piece:
            case Text():
                self.text += piece.text
            case CallBegins():
                self.calls.append(ToolCall(piece.id, piece.name, "", piece.is_text))
            case Arguments():
                self.calls[-1] = self.calls[-1].grown(piece.text)


class Talk:
    """The answers to a conversation as they come, in pieces of text and calls."""

    def __init__(self, generation: AsyncGeneration | Filling, *, reads_calls: bool = False) -> None:
        self.generation = generation
        self._readers = [CallReader(reads_calls=reads_calls) for _ in range(generation.num_answers)]

    async def pieces(self) -> AsyncIterator[tuple[Chunk, list[Piece]]]:
        """Yield every chunk with what became certain with it."""
        async for chunk in self.generation:
            reader = self._readers[chunk.index]
            pieces = reader.push(chunk.text)
            if chunk.finish_reason is not None:
                pieces += reader.finish()
            yield chunk, pieces

    def finish_reason(self, chunk: Chunk) -> str | None:
        """Return why an answer ended: stop, length or tool_calls; None while it goes on."""
        reason = finish(chunk.finish_reason)
        calls = self._readers[chunk.index].num_calls
        return "tool_calls" if calls and reason == "stop" else reason

    async def whole(self) -> list[Said]:
        """Read all answers to their ends."""
        said = [Said() for _ in self._readers]
        try:
            async for chunk, pieces in self.pieces():
                answer = said[chunk.index]
                for piece in pieces:
                    answer.add(piece)
                if chunk.token is not None:
                    answer.ids.append(chunk.token)
                if chunk.logprob is not None and chunk.token is not None:
                    answer.logprobs.append((chunk.token, chunk.logprob, chunk.top_logprobs))
                answer.finish_reason = self.finish_reason(chunk)
                answer.stop_reason = chunk.stop_reason
        finally:
            self.generation.close()
        return said
