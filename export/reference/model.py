"""Reference logits from transformers' own DeepSeek-V2 modules, one decoder layer at a time.

A layer is built without storage, filled from the checkpoint in float32, run on every sequence and
dropped; its experts are read one after another. So a 31 GB checkpoint is judged in about 1 GB.
Where transformers departs from the code that the models were published with, this file corrects
it or refuses; which is which is in docs/decisions/0003-references.md.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import ConfigError
from trtcoder.export.reference.config import transformers_config
from trtcoder.export.reference.layer import load_layer
from trtcoder.export.reference.trace import LayerTrace, stacked
from trtcoder.export.reference.transformers_modules import import_modules
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

if TYPE_CHECKING:
    import torch

# Rows of the output matrix that are in float32 at once.
_HEAD_ROWS = 8192


@dataclass(frozen=True, slots=True)
class ReferenceTrace:
    """What the reference computed for one sequence of T tokens.

    Attributes:
        logits: float32 ``[T, V]``.
        hidden: float32 ``[L, T, H]``, the residual stream after each layer, before the last norm.
        router_probabilities: float32 ``[Lm, T, E]``, softmax over all experts, of each
            mixture-of-experts layer.
        router_topk: int64 ``[Lm, T, k]``, ids of the chosen experts, ascending.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    router_probabilities: NDArray[np.float32]
    router_topk: NDArray[np.int64]


@dataclass(slots=True)
class SequenceState:
    """One sequence on its way through the layers."""

    stream: torch.Tensor  # [1, T, H]
    rotation: torch.Tensor  # [1, T, rope / 2], complex
    mask: torch.Tensor  # [1, 1, T, T], added to the scores


@dataclass(frozen=True, slots=True)
class ReferenceLayer(LayerTrace):
    """One layer and sequence; ``router_topk`` as in `ReferenceTrace`, None without experts."""

    router_topk: NDArray[np.int64] | None


class TransformersReference:
    """The forward pass of a checkpoint by transformers' DeepSeek-V2, in float32 on the CPU."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Prepare transformers' configuration; no weight is read.

        Raises:
            DependencyError: torch or transformers is missing, or transformers is not the one
                that was checked.
            ConfigError: transformers does not take this configuration, or computes it differently
                from the published code, so that it cannot judge.
        """
        self._modules = import_modules()
        self._checkpoint = checkpoint
        self._model = DeepseekV2Config.of(checkpoint.config)
        self._config = transformers_config(self._modules, self._model, str(checkpoint.folder))
        self._rotary = self._modules.DeepseekV2RotaryEmbedding(self._config)
        ours, theirs = self._model.rotary_scale, float(self._rotary.attention_scaling)
        if not math.isclose(ours, theirs, rel_tol=1e-6):
            raise ConfigError(
                f"{checkpoint.folder}: transformers scales cos and sin by {theirs:.6g}, the "
                f"published code by {ours:.6g}, because it reads an mscale or mscale_all_dim of 0 "
                "as absent; this reference cannot judge such a model"
            )

    def run(
        self,
        sequences: Sequence[NDArray[np.int64]],
        positions: int | Sequence[int | NDArray[np.int64]] = 0,
        on_layer: Callable[[int], None] = lambda layer: None,
    ) -> list[ReferenceTrace]:
        """Run each sequence of token ids by itself, from the beginning.

        ``positions`` is the position of each sequence's first token (one number for all, or one
        for each), or all its tokens' positions, ascending. ``on_layer`` is told of each decoder
        layer when all sequences have passed it.
        """
        if isinstance(positions, int):
            positions = [positions] * len(sequences)
        states = [
            self.embed(np.asarray(ids, np.int64), where)
            for ids, where in zip(sequences, positions, strict=True)
        ]
        layers: list[list[ReferenceLayer]] = []
        for layer in range(self.layers):
            layers.append(self.run_layer(layer, states))
            on_layer(layer)
        return [
            ReferenceTrace(
                logits=logits,
                hidden=np.stack([layer.hidden for layer in passed]),
                router_probabilities=stacked(
                    (layer.router_probabilities for layer in passed), len(logits)
                ),
                router_topk=stacked((layer.router_topk for layer in passed), len(logits)).astype(
                    np.int64
                ),
            )
            for logits, passed in zip(self.logits(states), zip(*layers, strict=True), strict=True)
        ]

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self._model.num_hidden_layers

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that computed the reference."""
        return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}

    def embed(self, ids: NDArray[np.int64], where: int | NDArray[np.int64] = 0) -> SequenceState:
        """Return a sequence before the first layer; ``where`` as ``positions`` of `run`."""
        import torch

        count = len(ids)
        positions = np.arange(count) + where if isinstance(where, int) else np.asarray(where)
        if positions.shape != ids.shape or (np.diff(positions) <= 0).any() or positions.min() < 0:
            raise ValueError("positions must be one for each token, not negative, ascending")
        rows = self._checkpoint.read("model.embed_tokens.weight", ids)
        stream = torch.from_numpy(rows)[None]
        future = torch.ones(count, count, dtype=torch.bool).triu(1)
        return SequenceState(
            stream=stream,
            rotation=self._rotary(stream, torch.from_numpy(positions)[None]),
            mask=torch.zeros(1, 1, count, count).masked_fill(future, -torch.inf),
        )

    def run_layer(self, layer: int, states: Sequence[SequenceState]) -> list[ReferenceLayer]:
        """Run all sequences through one decoder layer, and return what it made of each.

        Attention runs sequence by sequence. What follows it looks at each token by itself and
        runs on all of them at once, so that every expert is read once. The layers must be run in
        their order.
        """
        import torch

        module = load_layer(
            self._modules, self._config, self._checkpoint, layer, stream_experts=True
        )
        routed: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self._model.is_moe_layer(layer):
            module.mlp.gate.register_forward_hook(
                lambda gate, inputs, output: routed.append((output[0], output[2]))
            )
        lengths = [state.stream.shape[1] for state in states]
        with torch.inference_mode():
            attended = torch.cat([_attend(module, state) for state in states], dim=1)
            streams = attended + module.mlp(module.post_attention_layernorm(attended))
            for state, stream in zip(states, torch.split(streams, lengths, dim=1), strict=True):
                state.stream = stream
            if not routed:
                return [ReferenceLayer(state.stream[0].numpy(), None, None) for state in states]
            logits, experts = routed[0]
            probabilities = torch.split(logits.softmax(-1), lengths)
            chosen = torch.split(experts.sort(-1).values, lengths)
        return [
            ReferenceLayer(state.stream[0].numpy(), scores.numpy(), ids.numpy())
            for state, scores, ids in zip(states, probabilities, chosen, strict=True)
        ]

    @staticmethod
    def forward(module: Any, state: SequenceState) -> torch.Tensor:
        """Return a sequence's stream behind a decoder layer, ``[1, T, H]``."""
        found: torch.Tensor = module(
            state.stream, attention_mask=state.mask, position_embeddings=state.rotation
        )
        return found

    def load_layer(self, layer: int) -> Any:
        """Return transformers' module of one decoder layer, every parameter of it in float32."""
        return load_layer(self._modules, self._config, self._checkpoint, layer)

    def final_norm(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the last norm of a residual stream ``[T, H]``."""
        import torch

        config = self._model
        norm = self._modules.DeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        weight = torch.from_numpy(self._checkpoint.read("model.norm.weight"))
        norm.load_state_dict({"weight": weight}, strict=True, assign=True)
        found: torch.Tensor = norm(stream)
        return found

    def logits(self, states: Sequence[SequenceState]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each sequence, float32 ``[T, V]``, behind the last layer.

        The output matrix is read anew for each sequence, some rows at a time: whole and in
        float32 it is 840 MB for Lite, beside an engine's own.
        """
        import torch

        config = self._model
        name = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        for state in states:
            with torch.inference_mode():
                x = self.final_norm(state.stream[0])
                logits = np.empty((len(x), config.vocab_size), np.float32)
                for start in range(0, config.vocab_size, _HEAD_ROWS):
                    rows = slice(start, min(start + _HEAD_ROWS, config.vocab_size))
                    head = torch.from_numpy(self._checkpoint.read(name, rows))
                    logits[:, rows] = torch.nn.functional.linear(x, head).numpy()
            yield logits


def _attend(module: Any, state: SequenceState) -> torch.Tensor:
    """Return the stream behind a layer's attention, as in `DeepseekV2DecoderLayer.forward`."""
    branch, _ = module.self_attn(
        module.input_layernorm(state.stream),
        attention_mask=state.mask,
        position_embeddings=state.rotation,
    )
    attended: torch.Tensor = state.stream + branch
    return attended
