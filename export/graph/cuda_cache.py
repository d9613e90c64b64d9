"""The latent cache for CUDA: whole blocks, and scales that do not change.

`PagedAttention` has one scale for each of a row's channels, the same for all tokens; the caches for
the CPU have scales of each row. What a channel holds is known before any text is: c_kv leaves a
norm, so that its spread is the norm's weight, and k_pe is a product of a normed input.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.graph.builder import Dim
from trtcoder.export.graph.inputs import CACHE_BLOCK
from trtcoder.export.graph.latent_cache import Cache
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.weights.plan import Converted, DType, Part
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT, INT8, FLOAT8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN

# The largest code, and how many times its spread a value may be until it is cut off there. Float8
# keeps its relative precision far below, so it has room to spare.
_QUANTIZED = {"int8": (INT8, 127, 12.0), "fp8": (FLOAT8, 448, 64.0)}
# A channel that is always 0 has some scale as well.
_SMALLEST = 1e-6


def declare_cuda_cache(
    model: ModelBuilder, config: DeepseekV2Config, layer: int, kind: str
) -> Cache:
    """Declare a layer's cache: ``fp16`` or ``bf16`` as the activations are, ``int8`` or ``fp8``.

    The twin for the CPU has float32 rows of the same values.
    """
    b, width = model.b, config.cache_width
    name = f"cache.{layer}"
    dtype = b.activations
    scales = None
    if kind in _QUANTIZED:
        dtype, top, reach = _QUANTIZED[kind]
        scales = _channel_scales(model, config, layer, reach / top)
    if b.attends_by_pages:
        entries = b.input(name, dtype, ["blocks", CACHE_BLOCK, 1, width])
    else:
        entries = b.input(name, FLOAT, ["rows", width])
    return Cache(layer, entries, None, width, 1, [], scales)


def round_entry(model: ModelBuilder, cache: Cache, name: str, entry: ir.Value) -> ir.Value:
    """Return what a quantized cache makes of ``entry`` ``[tokens, width]``, for the twin."""
    b = model.b
    shape: list[Dim] = ["tokens", cache.width]
    if cache.channel_scales is None:
        return entry
    scale = b.op(
        "Reshape", f"{name}/channel_scales", [cache.channel_scales, b.ints(-1)], [cache.width],
        dtype=FLOAT,
    )  # fmt: skip
    codes = INT8 if model.recipe.cache == "int8" else FLOAT8
    _, top, _ = _QUANTIZED[model.recipe.cache]
    levels = b.op("Div", f"{name}/cache_levels", [entry, scale], shape, dtype=FLOAT)
    bounds = [b.scalar(-top), b.scalar(top)]
    levels = b.op("Clip", f"{name}/cache_bounded", [levels, *bounds], shape, dtype=FLOAT)
    if codes == INT8:
        levels = b.op("Round", f"{name}/cache_codes", [levels], shape, dtype=FLOAT)
    else:
        levels = b.cast(levels, f"{name}/cache_codes", shape, FLOAT8)
        levels = b.cast(levels, f"{name}/cache_values", shape, FLOAT)
    return b.op("Mul", f"{name}/cache_entry", [levels, scale], shape, dtype=FLOAT)


def _channel_scales(
    model: ModelBuilder, config: DeepseekV2Config, layer: int, step: float
) -> ir.Value:
    """Return ``step`` times the spread of each channel, float32 ``[1, 1, width]``.

    A row of kv_a_proj times independent inputs of spread g has the spread of ``row * g``; rotating
    mixes the two values of a pair.
    """
    name, prefix = f"layers.{layer}/attention/cache_scales", f"model.layers.{layer}"
    tensors = (
        f"{prefix}.self_attn.kv_a_layernorm.weight",
        f"{prefix}.input_layernorm.weight",
        f"{prefix}.self_attn.kv_a_proj_with_mqa.weight",
    )
    latent, width = config.kv_lora_rank, config.cache_width

    def produce() -> Converted:
        norm, taken, projection = (model.checkpoint.read(tensor) for tensor in tensors)
        variance = np.square(projection[latent:] * taken).sum(-1).reshape(-1, 2).mean(-1)
        spread: NDArray[np.float32] = np.concatenate([np.abs(norm), np.sqrt(variance).repeat(2)])
        scales = np.maximum(spread * step, _SMALLEST).astype(np.float32)
        return Converted([Part(name, 0, scales.reshape(1, 1, width))], [])

    weight = model.b.plan.declare(name, "activations", DType.FLOAT, [1, 1, width])
    model.b.plan.add_step(name, tensors, width, produce, [weight.rows()])
    return model.b.weight(weight, dtype=FLOAT)
