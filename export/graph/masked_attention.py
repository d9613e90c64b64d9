"""Latent attention in ONNX Runtime's own operators: every token against all bound cache rows.

A mask shows a token the rows that it sees.
"""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.attention_projections import EPSILON, Projected, absorbed
from trtcoder.export.graph.builder import CONTRIB, Dim, GraphBuilder
from trtcoder.export.graph.inputs import Inputs, rotate
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
    """Attend by ONNX Runtime's own operators: to all bound rows, of which a mask shows some."""
    b = model.b
    heads, latent = config.num_attention_heads, config.kv_lora_rank
    nope, rope, value = (
        config.qk_nope_head_dim,
        config.qk_rope_head_dim,
        config.v_head_dim,
    )
    q_nope, c_kv, pe = runs(model, config, name, found)
    c_kv = model.norm(f"{name}/kv_norm", f"{prefix}.kv_a_layernorm.weight", c_kv, latent, EPSILON)
    # The rotary part of all heads, and the key's that they share, turn in one node.
    pe = rotate(b, f"{name}/rotary", pe, heads + 1, rope, inputs.cos, inputs.sin)
    q_pe, k_pe = b.multi_op(
        "Split",
        f"{name}/split_rotary",
        [pe, b.ints(heads * rope, rope)],
        [
            (f"{name}/q_pe", FLOAT, ["tokens", heads * rope]),
            (f"{name}/k_pe", FLOAT, ["tokens", rope]),
        ],
        axis=1,
    )
    entry = b.op("Concat", f"{name}/latent", [c_kv, k_pe], ["tokens", config.cache_width], axis=1)
    keys = store(b, cache, name, entry, inputs)
    query = b.op(
        "Concat",
        f"{name}/query",
        [
            b.op(
                "MatMul",
                f"{name}/absorb_k",
                [
                    by_head(b, f"{name}/q_nope_heads", q_nope, heads, nope),
                    absorbed(model, config, name, prefix, "k"),
                ],
                [heads, "tokens", latent],
            ),
            by_head(b, f"{name}/q_pe_heads", q_pe, heads, rope),
        ],
        [heads, "tokens", config.cache_width],
        axis=2,
    )
    scores = b.op(
        "FusedMatMul",
        f"{name}/scores",
        [query, keys],
        [heads, "tokens", "rows"],
        domain=CONTRIB,
        transB=1,
        alpha=config.softmax_scale,
    )
    scores = b.op("Add", f"{name}/masked", [scores, inputs.bias(b)], [heads, "tokens", "rows"])
    weights = b.op("Softmax", f"{name}/softmax", [scores], [heads, "tokens", "rows"], axis=-1)
    # Multiplying with the whole row and dropping k_pe's share is cheaper than a strided copy
    # of the cache.
    mixed = b.op("MatMul", f"{name}/mix", [weights, keys], [heads, "tokens", config.cache_width])
    mixed = b.op(
        "Slice",
        f"{name}/mixed_latent",
        [mixed, b.ints(0), b.ints(latent), b.ints(2)],
        [heads, "tokens", latent],
    )
    out = b.op(
        "MatMul",
        f"{name}/absorb_v",
        [mixed, absorbed(model, config, name, prefix, "v")],
        [heads, "tokens", value],
    )
    out = b.op("Transpose", f"{name}/by_token", [out], ["tokens", heads, value], perm=[1, 0, 2])
    return b.op(
        "Reshape", f"{name}/heads", [out, b.ints(-1, heads * value)], ["tokens", heads * value]
    )


def runs(
    model: ModelBuilder, config: DeepseekV2Config, name: str, found: Projected
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return q_nope ``[tokens, heads * nope]``, c_kv before its norm, and q_pe with k_pe."""
    heads, latent = config.num_attention_heads, config.kv_lora_rank
    nope, rope = config.qk_nope_head_dim, config.qk_rope_head_dim
    if found.query is found.latent:
        sizes = (heads * nope, latent, (heads + 1) * rope)
        q_nope, c_kv, pe = model.split(name, "split", found.query, ("q_nope", "c_kv", "pe"), sizes)
        return q_nope, c_kv, pe
    c_kv, k_pe = model.split(name, "split_kv", found.latent, ("c_kv", "k_pe_raw"), (latent, rope))
    q_nope, q_pe = model.split(
        name, "split_b", found.query, ("q_nope", "q_pe_raw"), (heads * nope, heads * rope)
    )
    shape: list[Dim] = ["tokens", (heads + 1) * rope]
    dtype = q_pe.dtype or FLOAT
    pe = model.b.op("Concat", f"{name}/pe", [q_pe, k_pe], shape, dtype=dtype, axis=1)
    return q_nope, c_kv, pe


def by_head(b: GraphBuilder, name: str, x: ir.Value, heads: int, width: int) -> ir.Value:
    """Return ``x`` ``[tokens, heads * width]`` as ``[heads, tokens, width]``."""
    shape: list[Dim] = ["tokens", heads, width]
    dtype = x.dtype or FLOAT
    split = b.op("Reshape", f"{name}/split", [x, b.ints(-1, heads, width)], shape, dtype=dtype)
    shape = [heads, "tokens", width]
    return b.op("Transpose", name, [split], shape, dtype=dtype, perm=[1, 0, 2])
