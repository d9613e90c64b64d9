"""Multi-head latent attention in its absorbed form.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1. The cache holds the normalised latent c_kv and
the rotated shared key k_pe. The query is brought into the latent space by W_UK, and the output
back out of it by W_UV, so keys and values per head are never formed.
"""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.attention_projections import EPSILON, Projected, absorbed_inputs, project
from trtcoder.export.graph.builder import Dim
from trtcoder.export.graph.inputs import Inputs
from trtcoder.export.graph.latent_cache import Cache
from trtcoder.export.graph.masked_attention import attend_by_mask
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.graph.paged_attention import attend_by_pages
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.plugins.library import DOMAIN

FLOAT = ir.DataType.FLOAT


def latent_attention(
    model: ModelBuilder,
    config: DeepseekV2Config,
    layer: int,
    x: ir.Value,
    inputs: Inputs,
    cache: Cache,
) -> ir.Value:
    """Attend from ``x`` ``[tokens, hidden]`` to the cache, after writing the tokens to it."""
    name, prefix = f"layers.{layer}/attention", f"model.layers.{layer}.self_attn"
    attend = attend_by_mask
    if model.b.uses_kernels:
        attend = _by_kernel
    elif model.b.attends_by_pages:
        attend = attend_by_pages
    projected = project(model, config, name, prefix, x)
    out = attend(model, config, name, prefix, projected, inputs, cache)
    return model.linear(f"{name}/o_proj", "attention", out, model.matrix(f"{prefix}.o_proj.weight"))


def _by_kernel(
    model: ModelBuilder,
    config: DeepseekV2Config,
    name: str,
    prefix: str,
    found: Projected,
    inputs: Inputs,
    cache: Cache,
) -> ir.Value:
    """Attend by our own operator, which reads each sequence's blocks and no others."""
    b, width = model.b, config.num_attention_heads * config.v_head_dim
    outputs: list[tuple[str, ir.DataType | None, list[Dim]]] = [
        (f"{name}/heads", FLOAT, ["tokens", width])
    ]
    widths = (cache.width, cache.width // cache.group)
    outputs += [
        (f"{name}/{role}", buffer.dtype or FLOAT, ["rows", columns])
        for role, buffer, columns in zip(
            ("cache", "cache_scales"), cache.buffers, widths, strict=False
        )
    ]
    weights = (absorbed_inputs(model, config, name, prefix, role) for role in "kv")
    rounded = model.recipe.absorbed
    out, *written = b.multi_op(
        "LatentAttention",
        f"{name}/heads",
        [
            found.query,
            found.latent,
            model.norm_weight(f"{name}/kv_norm", f"{prefix}.kv_a_layernorm.weight"),
            inputs.cos,
            inputs.sin,
            inputs.positions,
            inputs.slots,
            inputs.sequences,
            inputs.block_table,
            *(value for values in weights for value in (*values, None)),
            *cache.buffers,
        ],
        outputs,
        domain=DOMAIN,
        heads=config.num_attention_heads,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        latent=config.kv_lora_rank,
        value=config.v_head_dim,
        nope_start=found.nope,
        rope_start=found.rope,
        latent_start=found.c_kv,
        key_rope_start=found.k_pe,
        scale=config.softmax_scale,
        epsilon=EPSILON,
        bits=rounded.bits if rounded else 0,
        block=rounded.block_size if rounded else 0,
        int16=1,
    )
    cache.written = list(zip(cache.output_names, written, strict=True))
    return out
