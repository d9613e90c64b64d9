"""Whole answers of Anthropic's, Ollama's and llama-server's endpoints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, RootModel


class MessageUsage(BaseModel):
    """Tokens that a message cost; those found in the cache are no input tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicAnswer(BaseModel):
    """The answer of `/v1/messages`; ``content`` has blocks of text and of tools to use."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    """The answer of `/v1/messages/count_tokens`."""

    input_tokens: int


class OllamaDone(BaseModel):
    """What Ollama says at the end; of an engine that is only loaded, no costs."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class OllamaGenerated(OllamaDone):
    """The answer of `/api/generate`."""

    response: str


class OllamaSaid(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[dict[str, Any]] = []


class OllamaChatted(OllamaDone):
    """The answer of `/api/chat`."""

    message: OllamaSaid


class OllamaVersion(BaseModel):
    """The API that is spoken."""

    version: str


class OllamaModel(BaseModel):
    """An engine."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: dict[str, Any]


class OllamaModels(BaseModel):
    """The engines."""

    models: list[OllamaModel]


class OllamaShown(BaseModel):
    """What is known of an engine."""

    modified_at: str
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class LlamaAnswered(BaseModel):
    """One answer; a request that names ``response_fields`` gets only those."""

    model_config = ConfigDict(extra="allow")

    index: int = 0
    content: str = ""
    tokens: list[int] = []
    stop: Literal[True] = True
    model: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    truncated: bool = False
    stop_type: Literal["none", "eos", "word", "limit"] = "eos"
    stopping_word: str = ""
    timings: dict[str, float] = {}


class LlamaAnswers(RootModel[LlamaAnswered | list[LlamaAnswered]]):
    """The answer of `/completion` and `/infill`, a list where several were asked for."""


class Props(BaseModel):
    """What llama-server says of itself."""

    default_generation_settings: dict[str, Any]
    total_slots: int
    model_path: str
    model_alias: str
    build_info: str
    modalities: dict[str, bool]
    chat_template: str
    bos_token: str
    eos_token: str
    endpoint_slots: bool
    endpoint_props: bool
    endpoint_metrics: bool


class Slot(BaseModel):
    """Room for one answer."""

    id: int
    n_ctx: int
    speculative: bool
    is_processing: bool


class Slots(RootModel[list[Slot]]):
    """The answer of `/slots`."""


class TemplateApplied(BaseModel):
    """The answer of `/apply-template`."""

    prompt: str


class Piece(BaseModel):
    """A token with its text, or its bytes where they are no text."""

    id: int
    piece: str | list[int]


class Tokens(BaseModel):
    """The answer of `/tokenize`."""

    tokens: list[int] | list[Piece]
    count: int
    max_model_len: int
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The answer of `/detokenize`."""

    content: str
    prompt: str


class Health(BaseModel):
    """Whether requests are taken, and why not."""

    status: str
    reason: str = ""
