"""Writes the graphs of one operator that the first two steps run; needs the extra build."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from trtcoder.export.graph.builder import CONTRIB, GraphBuilder
from trtcoder.export.graph.masked_routing import route_masked, scale_routed
from trtcoder.export.weights.data_file import layout
from trtcoder.export.weights.plan import DType
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT, INT32 = ir.DataType.FLOAT, ir.DataType.INT32
ACTIVATIONS = {
    "fp32": FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}
_STORED = {"fp32": DType.FLOAT, "fp16": DType.FLOAT16, "bf16": DType.BFLOAT16}
CACHES = {
    **ACTIVATIONS,
    "int8": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
}


def write_experts(
    folder: Path, config: DeepseekV2Config, activations: str, bits: int, block: int
) -> None:
    """Write a layer's routing and experts, with and without mixing weights for `QMoE`."""
    folder.mkdir(parents=True, exist_ok=True)
    for with_weights in (False, True):
        b = GraphBuilder("experts")
        dtype, stored = ACTIVATIONS[activations], _STORED[activations]
        hidden, inner, experts = (
            config.hidden_size,
            config.moe_intermediate_size,
            config.n_routed_experts,
        )
        x = b.input("x", dtype, ["tokens", hidden])
        logits = b.input("logits", FLOAT, ["tokens", experts])
        routing = route_masked(b, "moe", logits, config, dtype)
        shapes = {"gate_up": (2 * inner, hidden), "down": (hidden, inner)}
        weights = []
        for name, (rows, width) in shapes.items():
            codes = [experts, rows, width * bits // 8]
            scales = [experts, rows, width // block]
            weights += [
                b.weight(b.plan.declare(name, "experts_down", DType.UINT8, codes)),
                b.weight(
                    b.plan.declare(f"{name}_scales", "experts_down", stored, scales), dtype=dtype
                ),
            ]
        inputs = [x, routing.logits, weights[0], weights[1], None, weights[2], weights[3]]
        if with_weights:
            inputs += [None] * 7 + [b.input("router_weights", dtype, ["tokens", experts])]
        routed = b.op(
            "QMoE", "moe/experts", inputs, ["tokens", hidden], dtype=dtype, domain=CONTRIB,
            k=config.num_experts_per_tok, expert_weight_bits=bits, block_size=block,
            normalize_routing_weights=1, weights_prepacked=0, activation_type="swiglu",
            swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
        )  # fmt: skip
        b.output(scale_routed(b, "moe", routed, routing, hidden, dtype), "out")
        offsets, _ = layout(b.plan.declared.values())
        name = "told_weights.onnx" if with_weights else "experts.onnx"
        ir.save(b.model("weights.data", offsets), folder / name)
        (folder / "offsets.json").write_text(json.dumps(offsets))


def write_attention(
    folder: Path, config: DeepseekV2Config, activations: str, cache: str, block: int
) -> None:
    """Write one node of paged latent attention; an 8-bit cache has the scales of `cache_scales`."""
    folder.mkdir(parents=True, exist_ok=True)
    b = GraphBuilder("attention")
    heads, latent, width = (
        config.num_attention_heads,
        config.kv_lora_rank,
        config.cache_width,
    )
    dtype, stored = ACTIVATIONS[activations], CACHES[cache]
    scales, quantized = None, {}
    if cache in ("int8", "fp8"):
        values = cache_scales(cache, width).reshape(1, 1, width)
        scales, quantized = b.constant(values, "scales"), {"k_quant_type": "PER_CHANNEL"}
    out, written = b.multi_op(
        "PagedAttention",
        "attention",
        [
            b.input("query", dtype, ["tokens", heads * width]),
            b.input("entry", dtype, ["tokens", width]),
            None,
            b.input("cache", stored, ["blocks", block, 1, width]),
            None,
            b.input("query_starts", INT32, ["sequences + 1"]),
            b.input("past_lengths", INT32, ["sequences"]),
            b.input("block_table", INT32, ["sequences", "table"]),
            None,
            None,
            b.input("slots", INT32, ["tokens"]),
            None,
            None,
            None,
            scales,
            None,
            b.input("attention_metadata", INT32, [3]),
        ],
        [
            ("out", dtype, ["tokens", heads * latent]),
            ("cache.out", stored, ["blocks", block, 1, width]),
        ],
        domain=CONTRIB,
        num_heads=heads,
        kv_num_heads=1,
        scale=config.softmax_scale,
        kv_cache_layout="LATENT",
        v_head_size=latent,
        **quantized,
    )
    b.output(out, "out")
    b.output(written, "cache.out")
    ir.save(b.model("weights.data", {}), folder / "attention.onnx")


def cache_scales(cache: str, width: int) -> np.ndarray:
    """Return a scale a channel for values of spread 1, no two neighbours alike."""
    reach = {"int8": 6 / 127, "fp8": 64 / 448}[cache]
    return (reach * np.linspace(0.8, 1.2, width)).astype(np.float32)
