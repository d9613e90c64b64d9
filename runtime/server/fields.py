"""The fields of sampling that OpenAI-like requests share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.structure import StructureFields


class StreamOptions(BaseModel):
    """Options of a stream.

    ``include_usage`` asks for a last chunk with the usage, ``continuous_usage_stats`` (vLLM's) for
    the usage so far in each chunk before it too.
    """

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class SamplerFields(StructureFields):
    """What may be asked of how tokens are chosen; None is the engine's default.

    Keys that are unknown here are passed over: clients send many that change nothing.
    """

    # A number in quotes is no number; an integer is a float.
    model_config = ConfigDict(extra="ignore", strict=True)

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Annotated[str | list[str] | None, Field(description="At most 32 strings.")] = None
    stop_token_ids: list[int] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None

    def params(self, max_tokens: int | None, **more: Any) -> SamplingParams:
        """Return the sampler's parameters; ``more`` goes before the fields.

        Raises:
            RequestError: a value out of range, or a form that the answer cannot have.
        """
        # -1 is how some clients write that top-k is off, or that they have no seed.
        top_k = 0 if self.top_k == -1 else self.top_k
        given: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": top_k,
            "min_p": self.min_p,
            "seed": None if self.seed == -1 else self.seed,
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": self.logit_bias,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "include_stop": self.include_stop_str_in_output,
            "constraint": self.constraint() if "constraint" not in more else None,
            **more,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})


class SamplingFields(SamplerFields):
    """What completions, middles and chats share beside how tokens are chosen."""

    model: str | None = None
    max_tokens: int | None = None
    n: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    def params(self, max_tokens: int | None, **more: Any) -> SamplingParams:
        """Return the sampler's parameters, with the number of answers."""
        return super().params(max_tokens, **{"n": self.n, **more})
