"""One decoder layer of transformers' DeepSeek-V2, filled from a checkpoint in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import ConfigError
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

if TYPE_CHECKING:
    import torch

# transformers stacks the experts' matrices, gate above up.
_STACKED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


class ExpertMatrices:
    """Stands for a stacked parameter of the experts, and reads an expert when it is indexed.

    That is all that transformers' experts do with the parameter, one after another, so that one
    expert is in memory instead of 64 (2.2 GB for Lite, 15 GB for 236B).
    """

    def __init__(self, read: Callable[[int], NDArray[np.float32]]) -> None:
        self._read = read

    def __getitem__(self, expert: torch.Tensor | int) -> torch.Tensor:
        import torch

        return torch.from_numpy(self._read(int(expert)))


def load_layer(
    modules: Any, config: Any, checkpoint: Checkpoint, layer: int, *, stream_experts: bool = False
) -> Any:
    """Return transformers' module of a decoder layer, every parameter of it filled.

    Args:
        modules: transformers' module of the architecture.
        config: transformers' configuration.
        checkpoint: the weights.
        layer: which layer, from 0.
        stream_experts: leave the routed experts in the checkpoint (see `ExpertMatrices`).
    """
    import torch

    with torch.device("meta"), warnings.catch_warnings():
        # torch warns of tensors without elements, the shared experts of a model that has none.
        warnings.simplefilter("ignore", UserWarning)
        module = modules.DeepseekV2DecoderLayer(config, layer)
    model = DeepseekV2Config.of(checkpoint.config)
    is_moe = model.is_moe_layer(layer)
    if stream_experts and is_moe:
        _stream_experts(module.mlp.experts, checkpoint, layer)
    filled = {
        name: torch.from_numpy(_read(checkpoint, f"model.layers.{layer}.{name}", value.shape))
        for name, value in module.state_dict().items()
    }
    # Strict: raises for any parameter that is missing, unexpected or misshapen.
    module.load_state_dict(filled, strict=True, assign=True)
    if is_moe and model.norm_topk_prob and module.mlp.gate.top_k > 1:
        module.mlp.gate.register_forward_hook(_normalize)
    return module.eval()


def _stream_experts(experts: Any, checkpoint: Checkpoint, layer: int) -> None:
    for role in _STACKED:
        name, shape = f"model.layers.{layer}.mlp.experts.{role}", experts.get_parameter(role).shape

        def read(
            expert: int, name: str = name, shape: tuple[int, ...] = tuple(shape[1:])
        ) -> NDArray[np.float32]:
            return _read_expert(checkpoint, name, expert, np.empty(shape, np.float32))

        delattr(experts, role)
        setattr(experts, role, ExpertMatrices(read))


def _read(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a parameter in transformers' layout."""
    if ".experts." not in name:
        if 0 in shape:  # transformers builds the shared experts even where there are none
            return np.zeros(tuple(shape), np.float32)
        return checkpoint.read(name)
    stacked = np.empty(tuple(shape), np.float32)
    for expert, target in enumerate(stacked):
        _read_expert(checkpoint, name, expert, target)
    return stacked


def _read_expert(
    checkpoint: Checkpoint, name: str, expert: int, target: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Fill ``target`` ``[rows, columns]`` with one expert's part of a stacked parameter."""
    prefix, _, role = name.rpartition(".")
    start = 0
    for part in _STACKED[role]:
        value = checkpoint.read(f"{prefix}.{expert}.{part}.weight")
        target[start : start + len(value)] = value
        start += len(value)
    if start != len(target):
        raise ConfigError(f"{name}: expert {expert} has {start} rows of {len(target)}")
    return target


def _normalize(gate: Any, inputs: Any, output: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Do what norm_topk_prob asks for and transformers leaves out.

    As in the published modeling_deepseek.py, `MoEGate.forward`: the chosen weights are divided by
    their sum *instead of* being multiplied with routed_scaling_factor, which cancels here.
    """
    logits, weights, chosen = output
    return logits, weights / weights.sum(-1, keepdim=True), chosen
