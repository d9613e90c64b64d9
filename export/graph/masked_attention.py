"""Latent attention in ONNX Runtime's own operators: every token against all bound cache rows.

A mask shows a token the rows that it sees.
"""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.absorbed_rows import absorbed_rows, by_head, leave_latent
from trtcoder.export.graph.attention_mask import attention_bias
from trtcoder.export.graph.attention_projections import Projected
from trtcoder.export.graph.builder import CONTRIB
from trtcoder.export.graph.cuda_cache import round_entry
from trtcoder.export.graph.inputs import Inputs
from trtcoder.export.graph.latent_cache import Cache, store
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT = ir.DataType.FLOAT


def attend_by_mask(
    model: ModelBuilder,
    config: DeepseekV2Config,
    name: str,
    prefix: str,
    found: Projected,
    inputs: Inputs,
    cache: Cache,
) -> ir.Value:
    """Attend by ONNX Runtime's own operators: to all bound rows, of which a mask shows some.

    All of it is float32, as inside of fused kernels.
    """
    b = model.b
    heads, latent, rope = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
    rows = absorbed_rows(model, config, name, prefix, found, inputs)
    entry = round_entry(model, cache, name, rows.entry)
    keys = store(b, cache, name, entry, inputs)
    query = b.op(
        "Concat",
        f"{name}/query",
        [rows.q_latent, by_head(b, f"{name}/q_pe_heads", rows.q_pe, heads, rope)],
        [heads, "tokens", config.cache_width],
        dtype=FLOAT,
        axis=2,
    )
    scores = b.op(
        "FusedMatMul",
        f"{name}/scores",
        [query, keys],
        [heads, "tokens", "rows"],
        dtype=FLOAT,
        domain=CONTRIB,
        transB=1,
        alpha=config.softmax_scale,
    )
    bias = attention_bias(b, inputs)
    scores = b.op("Add", f"{name}/masked", [scores, bias], [heads, "tokens", "rows"], dtype=FLOAT)
    weights = b.op(
        "Softmax", f"{name}/softmax", [scores], [heads, "tokens", "rows"], dtype=FLOAT, axis=-1
    )
    # Multiplying with the whole row and dropping k_pe's share is cheaper than a strided copy
    # of the cache.
    mixed = b.op(
        "MatMul", f"{name}/mix", [weights, keys], [heads, "tokens", config.cache_width], dtype=FLOAT
    )
    mixed = b.op(
        "Slice",
        f"{name}/mixed_latent",
        [mixed, b.ints(0), b.ints(latent), b.ints(2)],
        [heads, "tokens", latent],
    )
    return leave_latent(model, config, name, prefix, mixed)
