"""The bodies of Ollama's endpoints."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from trtcoder.errors import RequestError
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.fim.options import FimOptions
from trtcoder.runtime.server.service import Service


class Options(BaseModel):
    """What may be asked of sampling; other options are passed over, they change how Ollama runs."""

    model_config = ConfigDict(extra="ignore")

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

    def params(self, service: Service, served: Served) -> SamplingParams:
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
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})


class OllamaRequest(BaseModel):
    """What its two endpoints of text have in common."""

    model_config = ConfigDict(extra="ignore")

    model: str
    stream: bool | None = True
    options: Options | None = None
    format: Any = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    trtcoder: FimOptions | None = None

    def refuse(self, *names: str) -> None:
        """Raise RequestError where one of the fields ``names`` is given, or ``format``."""
        for name in ("format", *names):
            if getattr(self, name):
                raise RequestError(f"{name}: not supported here; leave it out")
        if self.think:
            raise RequestError(f"think: {self.model} does not support thinking; leave it out")


class GenerateRequest(OllamaRequest):
    """A prompt, or a hole where there is a ``suffix``."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    images: list[Any] | None = None
    context: list[int] | None = None


class OllamaMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: str = ""
    images: list[Any] | None = None


class ChatRequest(OllamaRequest):
    """A conversation."""

    messages: list[OllamaMessage] = []
    tools: list[Any] | None = None


class ShowRequest(BaseModel):
    """Which engine to describe; older clients write ``name``."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    name: str | None = None


def error_form(error: ApiError) -> dict[str, Any]:
    """Return an error as Ollama writes it."""
    return {"error": error.message}
