"""The JSON files that tell a server how a quantized checkpoint is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trtcoder.calib.storage.float8 import BLOCK
from trtcoder.calib.storage.nvfp4 import GROUP
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.checkpoints.form import Form, form_of
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

# The release whose form ModelOpt's files are in; loaders go by the producer's name.
_PRODUCER = {"name": "modelopt", "version": "0.47.0"}
# Not carried: it names modules of Python that are not beside the weights. Every server has its own.
_LEFT_OUT = ("auto_map", "rope_parameters", "dtype", "_name_or_path")


def config_json(
    config: DeepseekV2Config, recipe: Recipe, excluded: Sequence[str]
) -> dict[str, Any]:
    """Return config.json: the checkpoint's, and how the weights are stored.

    ``rope_scaling``, ``rope_theta``, ``attention_bias`` and ``pad_token_id`` are always there:
    TensorRT-LLM reads them without looking whether they are.
    """
    kept = {key: value for key, value in config.raw.items() if key not in _LEFT_OUT}
    return {
        **kept,
        "attention_bias": kept.get("attention_bias", False),
        "pad_token_id": kept.get("pad_token_id"),
        "rope_scaling": _rope_scaling(config),
        "rope_theta": config.rope_theta,
        "torch_dtype": "bfloat16",
        "quantization_config": quantization_config(recipe, excluded),
    }


def quantization_config(recipe: Recipe, excluded: Sequence[str]) -> dict[str, Any]:
    """Return what config.json says of the stored weights; ``excluded`` are modules."""
    form = form_of(recipe)
    if form is Form.FP8_BLOCK:
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
            "modules_to_not_convert": list(excluded),
        }
    if form is Form.FP8_TENSOR:
        return {
            "quant_method": "modelopt",
            "quant_algo": "FP8",
            "kv_cache_scheme": None,
            "ignore": list(excluded),
            "producer": _PRODUCER,
        }
    if form is Form.NVFP4:
        stored = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": GROUP}
        return {
            "config_groups": {
                "group_0": {
                    "input_activations": stored, "weights": stored, "targets": ["Linear"]
                }
            },
            "ignore": list(excluded),
            "quant_algo": "NVFP4",
            "kv_cache_scheme": None,
            "producer": _PRODUCER,
            "quant_method": "modelopt",
        }  # fmt: skip
    return _packed(recipe, excluded)


def hf_quant_config(recipe: Recipe, excluded: Sequence[str]) -> dict[str, Any] | None:
    """Return hf_quant_config.json, by which TensorRT-LLM reads ModelOpt's forms; else None.

    Without ``torch_dtype``, which ModelOpt leaves out, it would compute in float16.
    """
    form = form_of(recipe)
    if form not in (Form.FP8_TENSOR, Form.NVFP4):
        return None
    algorithm: dict[str, Any] = {"quant_algo": "FP8", "kv_cache_quant_algo": None}
    if form is Form.NVFP4:
        algorithm = {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": GROUP}
    return {
        "producer": _PRODUCER,
        "quantization": {
            **algorithm,
            "exclude_modules": list(excluded),
            "torch_dtype": "bfloat16",
        },
    }


def _packed(recipe: Recipe, excluded: Sequence[str]) -> dict[str, Any]:
    scheme = recipe.scheme("experts_gate_up")
    assert isinstance(scheme, Scheme)  # form_of has looked
    weights: Mapping[str, Any] = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "group",
        "group_size": scheme.block_size,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    group = {
        "targets": ["Linear"],
        "format": "pack-quantized",
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(excluded),
        "config_groups": {"group_0": group},
    }


def _rope_scaling(config: DeepseekV2Config) -> dict[str, Any] | None:
    if config.yarn is None:
        return None
    return {"type": "yarn", **dataclasses.asdict(config.yarn)}
