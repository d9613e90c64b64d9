"""Latent attention by ONNX Runtime's `PagedAttention`, which only CUDA has.

It writes the tokens' rows to the cache in place, and reads each sequence's blocks.
"""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.absorbed_rows import absorbed_rows, leave_latent
from trtcoder.export.graph.attention_projections import Projected
from trtcoder.export.graph.builder import CONTRIB
from trtcoder.export.graph.inputs import CACHE_BLOCK, Inputs
from trtcoder.export.graph.latent_cache import Cache
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def attend_by_pages(
    model: ModelBuilder,
    config: DeepseekV2Config,
    name: str,
    prefix: str,
    found: Projected,
    inputs: Inputs,
    cache: Cache,
) -> ir.Value:
    """Attend to the blocks of each token's sequence."""
    b = model.b
    heads, latent, rope = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
    width, dtype = config.cache_width, b.activations
    rows = absorbed_rows(model, config, name, prefix, found, inputs)
    q_latent = b.op(
        "Transpose",
        f"{name}/q_latent",
        [rows.q_latent],
        ["tokens", heads, latent],
        perm=[1, 0, 2],
    )
    q_pe = b.op(
        "Reshape", f"{name}/q_pe_heads", [rows.q_pe, b.ints(-1, heads, rope)],
        ["tokens", heads, rope],
    )  # fmt: skip
    query = b.op(
        "Concat", f"{name}/query_heads", [q_latent, q_pe], ["tokens", heads, width], axis=2
    )
    query = b.op(
        "Reshape", f"{name}/query", [query, b.ints(-1, heads * width)], ["tokens", heads * width]
    )
    paged = inputs.paged
    if paged is None:
        raise ValueError("the graph has no inputs for paged attention")
    quantized = {"k_quant_type": "PER_CHANNEL"} if cache.channel_scales is not None else {}
    out, written = b.multi_op(
        "PagedAttention",
        f"{name}/mixed_latent",
        [
            query,
            rows.entry,
            None,
            cache.entries,
            None,
            paged.query_starts,
            paged.past_lengths,
            paged.block_table,
            None,
            None,
            paged.slots,
            None,
            None,
            None,
            cache.channel_scales,
            None,
            paged.metadata,
        ],
        [
            (f"{name}/mixed_latent", dtype, ["tokens", heads * latent]),
            (f"{name}/cache", cache.entries.dtype, ["blocks", CACHE_BLOCK, 1, width]),
        ],
        domain=CONTRIB,
        num_heads=heads,
        kv_num_heads=1,
        scale=config.softmax_scale,
        kv_cache_layout="LATENT",
        v_head_size=latent,
        **quantized,
    )
    cache.written = list(zip(cache.output_names, [written], strict=True))
    out = b.op(
        "Reshape", f"{name}/mixed_heads", [out, b.ints(-1, heads, latent)],
        ["tokens", heads, latent],
    )  # fmt: skip
    out = b.op(
        "Transpose", f"{name}/mixed_by_head", [out], [heads, "tokens", latent], perm=[1, 0, 2]
    )
    return leave_latent(model, config, name, prefix, out)
