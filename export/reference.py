"""Reference logits from transformers' own DeepSeek-V2 modules, one decoder layer at a time.

A layer is built without storage, filled from the checkpoint in float32, run on every sequence and
dropped, so that a 31 GB checkpoint is judged in a few gigabytes. Where transformers departs from
the code that the models were published with, this file corrects it or refuses; which is which is
in docs/decisions/0003-references.md.
"""

from __future__ import annotations

import copy
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint import Checkpoint
from trtcoder.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    import torch

TRANSFORMERS = "5.23.0"
_REMEDY = "install it with `pip install 'trtcoder[verify]'`"
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
    hidden: list[NDArray[np.float32]]
    probabilities: list[NDArray[np.float32]]
    chosen: list[NDArray[np.int64]]


class TransformersReference:
    """The forward pass of a checkpoint by transformers' DeepSeek-V2, in float32 on the CPU."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Prepare transformers' configuration; no weight is read.

        Raises:
            DependencyError: torch or transformers is missing, or transformers is not the one
                that was checked.
            ConfigError: transformers computes this configuration differently from the published
                code, so that it cannot judge.
        """
        self._modules = _import_modules()
        self._checkpoint = checkpoint
        self._config = self._transformers_config()
        self._rotary = self._modules.DeepseekV2RotaryEmbedding(self._config)
        ours, theirs = checkpoint.config.rotary_scale, float(self._rotary.attention_scaling)
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
        import torch

        if isinstance(positions, int):
            positions = [positions] * len(sequences)
        with torch.inference_mode():
            states = [
                self.embed(np.asarray(ids, np.int64), where)
                for ids, where in zip(sequences, positions, strict=True)
            ]
            for layer in range(self._checkpoint.config.num_hidden_layers):
                self._trace_layer(layer, states)
                on_layer(layer)
            logits = self._logits([state.stream for state in states])
        return [
            ReferenceTrace(
                logits=found,
                hidden=np.stack(state.hidden),
                router_probabilities=_stacked(state.probabilities, len(found)),
                router_topk=_stacked(state.chosen, len(found)).astype(np.int64),
            )
            for state, found in zip(states, logits, strict=True)
        ]

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that computed the reference."""
        return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}

    def _transformers_config(self) -> Any:
        """Return transformers' reading of config.json, with what it reads otherwise put right."""
        config = self._checkpoint.config
        corrected = {
            # Files from before the spelling was corrected name no method that transformers knows.
            "topk_method": config.topk_method,
            # transformers wants numbers where the published files may have null.
            "n_shared_experts": config.n_shared_experts,
            "n_routed_experts": config.n_routed_experts,
            # Without routed experts the published code builds dense layers only.
            "first_k_dense_replace": (
                config.first_k_dense_replace
                if config.n_routed_experts
                else config.num_hidden_layers
            ),
        }
        # A copy: transformers writes into the nested settings that it is given.
        raw = copy.deepcopy(dict(config.raw))
        found = self._modules.DeepseekV2Config.from_dict({**raw, **corrected})
        found._attn_implementation = "eager"
        found._experts_implementation = "eager"
        return found

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
            hidden=[],
            probabilities=[],
            chosen=[],
        )

    def _trace_layer(self, layer: int, states: Sequence[SequenceState]) -> None:
        module = self.load_layer(layer)
        routed: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self._checkpoint.config.is_moe_layer(layer):
            module.mlp.gate.register_forward_hook(
                lambda gate, inputs, output: routed.append((output[0], output[2]))
            )
        for state in states:
            state.stream = self.forward(module, state)
            state.hidden.append(state.stream[0].numpy())
            for logits, chosen in routed:
                state.probabilities.append(logits.softmax(-1).numpy())
                state.chosen.append(chosen.sort(-1).values.numpy())
            routed.clear()

    @staticmethod
    def forward(module: Any, state: SequenceState) -> torch.Tensor:
        """Return a sequence's stream behind a decoder layer, ``[1, T, H]``."""
        found: torch.Tensor = module(
            state.stream, attention_mask=state.mask, position_embeddings=state.rotation
        )
        return found

    def load_layer(self, layer: int) -> Any:
        """Return transformers' module of one decoder layer, every parameter of it filled."""
        import torch

        with torch.device("meta"), warnings.catch_warnings():
            # torch warns of tensors without elements, the shared experts of a model that has none.
            warnings.simplefilter("ignore", UserWarning)
            module = self._modules.DeepseekV2DecoderLayer(self._config, layer)
        filled = {
            name: torch.from_numpy(self._read(f"model.layers.{layer}.{name}", tuple(value.shape)))
            for name, value in module.state_dict().items()
        }
        # Strict: raises for any parameter that is missing, unexpected or misshapen.
        module.load_state_dict(filled, strict=True, assign=True)
        config = self._checkpoint.config
        if config.is_moe_layer(layer) and config.norm_topk_prob and module.mlp.gate.top_k > 1:
            module.mlp.gate.register_forward_hook(_normalize)
        return module.eval()

    def _read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a parameter in transformers' layout: experts are stacked, gate above up."""
        parts = {".gate_up_proj": ("gate_proj", "up_proj"), ".down_proj": ("down_proj",)}
        prefix, _, last = name.rpartition(".experts")
        if not prefix:
            if 0 in shape:  # transformers builds the shared experts even where there are none
                return np.zeros(shape, np.float32)
            return self._checkpoint.read(name)
        stacked = np.empty(shape, np.float32)
        for expert, target in enumerate(stacked):
            start = 0
            for part in parts[last]:
                value = self._checkpoint.read(f"{prefix}.experts.{expert}.{part}.weight")
                target[start : start + len(value)] = value
                start += len(value)
            if start != shape[1]:
                raise ConfigError(f"{name}: expert {expert} has {start} rows of {shape[1]}")
        return stacked

    def final_norm(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the last norm of a residual stream ``[T, H]``."""
        import torch

        config = self._checkpoint.config
        norm = self._modules.DeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        weight = torch.from_numpy(self._checkpoint.read("model.norm.weight"))
        norm.load_state_dict({"weight": weight}, strict=True, assign=True)
        found: torch.Tensor = norm(stream)
        return found

    def _logits(self, streams: Sequence[torch.Tensor]) -> list[NDArray[np.float32]]:
        import torch

        config = self._checkpoint.config
        final = [self.final_norm(stream[0]) for stream in streams]
        name = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        logits = [np.empty((len(x), config.vocab_size), np.float32) for x in final]
        for start in range(0, config.vocab_size, _HEAD_ROWS):
            rows = slice(start, min(start + _HEAD_ROWS, config.vocab_size))
            head = torch.from_numpy(self._checkpoint.read(name, rows))
            for x, target in zip(final, logits, strict=True):
                target[:, rows] = torch.nn.functional.linear(x, head).numpy()
        return logits


def _normalize(gate: Any, inputs: Any, output: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Do what norm_topk_prob asks for and transformers leaves out.

    As in the published modeling_deepseek.py, `MoEGate.forward`: the chosen weights are divided by
    their sum *instead of* being multiplied with routed_scaling_factor, which cancels here.
    """
    logits, weights, chosen = output
    return logits, weights / weights.sum(-1, keepdim=True), chosen


def _stacked(parts: Sequence[NDArray[Any]], count: int) -> NDArray[Any]:
    """Return ``[layers, T, …]``; a model without experts has zero layers."""
    return np.stack(parts) if parts else np.zeros((0, count, 0), np.float32)


def _import_modules() -> Any:
    """Return the module of transformers' DeepSeek-V2, after checking that it can be a reference."""
    try:
        import torch  # noqa: F401
        import transformers
        from transformers.models.deepseek_v2 import modeling_deepseek_v2
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed; {_REMEDY}") from error
    if transformers.__version__ != TRANSFORMERS:
        raise DependencyError(
            f"transformers {transformers.__version__} is installed; only {TRANSFORMERS} was "
            f"checked as a reference; {_REMEDY}"
        )
    check_softmax_scale(modeling_deepseek_v2)
    return modeling_deepseek_v2


def check_softmax_scale(modules: Any) -> None:
    """Raise DependencyError unless attention's softmax scale carries YaRN's mscale squared.

    transformers before 5.15.0 leaves it out, which changes every score by a factor of 1.6 in
    Lite. The sizes are Lite's; the answer was worked out by hand.
    """
    import torch

    config = modules.DeepseekV2Config(
        hidden_size=16,
        num_attention_heads=1,
        max_position_embeddings=163840,
        q_lora_rank=None,
        rope_scaling={
            "type": "yarn",
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
    )
    with torch.device("meta"):
        found = float(modules.DeepseekV2Attention(config, 0).scaling)
    expected = 192**-0.5 * (0.0707 * math.log(40) + 1) ** 2
    if not math.isclose(found, expected, rel_tol=1e-6):
        raise DependencyError(
            f"transformers' attention scales scores by {found:.6f} where DeepSeek-V2 has "
            f"{expected:.6f}: it leaves out YaRN's mscale squared; {_REMEDY}"
        )
