"""What every architecture's configuration says, whatever its own keys are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

# Name and shape of each tensor of a checkpoint, in the model's order.
Shapes = dict[str, tuple[int, ...]]
# Buffers that some converters save and that follow from the configuration.
DERIVED_SUFFIXES = (".rotary_emb.inv_freq",)


class ModelConfig(Protocol):
    """A model's configuration; fields are Hugging Face's keys.

    The class of an architecture, such as `trtcoder.model.deepseek_v2.config.DeepseekV2Config`, has
    fields of its own beside these. Which class reads a config.json is in `trtcoder.model.registry`.
    """

    @property
    def raw(self) -> Mapping[str, Any]:
        """The file as read."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, V."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream, H."""

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers, L."""

    @property
    def num_attention_heads(self) -> int:
        """Query heads of a layer."""

    @property
    def n_routed_experts(self) -> int:
        """Routed experts of a layer that has any; 0 in a dense model."""

    @property
    def max_position_embeddings(self) -> int:
        """Length of the context in tokens."""

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the output matrix is the embedding."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""

    @property
    def published_name(self) -> str | None:
        """The published model that has these sizes."""

    def untied(self) -> ModelConfig:
        """Return the same with an output matrix of its own."""

    def is_moe_layer(self, layer: int) -> bool:
        """Whether ``layer`` (from 0) has experts."""

    def expected_tensors(self) -> Shapes:
        """Return name and shape of every tensor that a checkpoint must have."""
