"""Whole answers of OpenAI's endpoints, and of Mistral's."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Reason = Literal["stop", "length"]


class CachedTokens(BaseModel):
    """Of the prompt."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens that a request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Answered(BaseModel):
    """What every answer says of itself."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class CompletionLogprobs(BaseModel):
    """Log-probabilities, a token an entry."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(BaseModel):
    """A token that was possible in the prompt; its rank is known among the most likely ones."""

    logprob: float
    rank: int | None
    decoded_token: str


# By token id; the first token has none.
PromptLogprobs = list[dict[str, PromptLogprob] | None]


class CompletionChoice(BaseModel):
    """One continuation or middle; the last three are told where they were asked for."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Reason | None
    stop_reason: str | int | None
    token_ids: list[int] | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: PromptLogprobs | None


class Completion(Answered):
    """The answer of `/v1/completions`."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class CalledFunction(BaseModel):
    """``arguments`` is JSON text."""

    name: str
    arguments: str


class CalledTool(BaseModel):
    """A custom tool, which takes text."""

    name: str
    input: str


class Call(BaseModel):
    """A tool that the model asks to be called, of one of the two kinds."""

    id: str
    type: Literal["function", "custom"]
    function: CalledFunction | None = None
    custom: CalledTool | None = None


class AnswerMessage(BaseModel):
    """What the model said; ``tool_calls`` is there where it calls tools."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[Call] = []


class TokenLogprob(BaseModel):
    """A token that was possible."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    """A token that was chosen, and the most likely ones in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer."""

    content: list[ChosenLogprob]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    stop_reason: str | int | None
    token_ids: list[int] | None


class ChatCompletion(Answered):
    """The answer of `/v1/chat/completions`; the last two are told where they were asked for."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_token_ids: list[int] | None
    prompt_logprobs: PromptLogprobs | None


class FimChoice(BaseModel):
    """One middle."""

    index: int
    message: AnswerMessage
    finish_reason: Reason | None


class FimCompletion(Answered):
    """The answer of `/v1/fim/completions`."""

    object: Literal["chat.completion"]
    choices: list[FimChoice]


class ResponseUsage(BaseModel):
    """Tokens that a response cost."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseAnswer(BaseModel):
    """The answer of `/v1/responses`; ``output`` has messages and calls."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: dict[str, str] | None
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage


class InputTokens(BaseModel):
    """How many tokens a prompt has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Capabilities(BaseModel):
    """What an engine can do."""

    completion: bool
    fim: bool
    chat: bool


class ServedModel(BaseModel):
    """An engine."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int
    capabilities: Capabilities
    certificate: dict[str, Any] | None
    system_fingerprint: str


class ServedModels(BaseModel):
    """The engines."""

    object: Literal["list"]
    data: list[ServedModel]
