"""The bodies of Ollama's endpoints."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.constraint import Constraint
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.conversation import Conversation
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.options import FimOptions
from trtcoder.runtime.server.messages import ChatMessage, as_turns
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.tools.tool import ToolBox


class Options(BaseModel):
    """What may be asked of sampling; other options are passed over, they change how Ollama runs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens; None without a limit, which -1, -2 and 0 mean too."""
        return self.num_predict if self.num_predict and self.num_predict > 0 else None

    def params(
        self, service: Service, served: Served, form: Constraint | None = None
    ) -> SamplingParams:
        """Return the sampler's parameters.

        Raises:
            RequestError: a value out of range.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        given: dict[str, Any] = {
            "max_tokens": service.limit(served, self.limit),
            "temperature": self.temperature,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": None if self.seed is None or self.seed < 0 else self.seed,
            "stop": [stop for stop in stops if stop],
            "constraint": form,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})


class OllamaRequest(BaseModel):
    """What its two endpoints of text have in common."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str
    stream: bool | None = True
    options: Options | None = None
    format: Any = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    trtcoder: FimOptions | None = None

    def refuse(self, *names: str) -> None:
        """Raise RequestError where one of the fields ``names`` is given, or ``think``."""
        for name in names:
            if getattr(self, name):
                raise RequestError(f"{name}: not supported here; leave it out")
        if self.think:
            raise RequestError(f"think: {self.model} does not support thinking; leave it out")

    def form(self) -> Constraint | None:
        """Return the form that ``format`` asks for: JSON, or what fits a schema.

        Raises:
            RequestError: it asks for something else.
        """
        if self.format is None or self.format == "":
            return None
        if self.format == "json":
            return Constraint.json_object("format")
        if not isinstance(self.format, dict):
            raise RequestError('format: expected "json" or a JSON schema')
        return Constraint.json_schema(self.format, lenient=True, source="format")


class GenerateRequest(OllamaRequest):
    """A prompt, or a hole where there is a ``suffix``."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    images: list[Any] | None = None
    context: list[int] | None = None


class OllamaMessage(ChatMessage):
    """One message of a chat; a tool's result names the tool."""

    images: list[Any] | None = None
    tool_name: str | None = None

    @property
    def answers(self) -> str | None:
        """The call whose result this is."""
        return self.tool_call_id or self.tool_name or self.name


class ChatRequest(OllamaRequest):
    """A conversation."""

    messages: list[OllamaMessage] = []
    tools: list[Any] | None = None

    def conversation(self) -> Conversation:
        """Return the conversation.

        Raises:
            RequestError: a message, a tool or a form that is not supported.
        """
        if any(message.images for message in self.messages):
            raise RequestError("messages: images are not supported; this model takes text")
        turns = as_turns(self.messages)
        last = turns[-1]
        return Conversation(
            turns,
            ToolBox.of(self.tools),
            self.form(),
            # A last message of the assistant is the beginning of the answer.
            continues=last.role == "assistant" and not last.calls,
        )


class ShowRequest(BaseModel):
    """Which engine to describe; older clients write ``name``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    name: str | None = None
