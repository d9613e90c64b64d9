"""The rows that absorbed attention works with: each token's query, and what it writes.

All forms of attention that are not our own operator take them: `masked_attention`,
`paged_attention`, and `slots.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.export.graph.attention_projections import EPSILON, Projected, absorbed
from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.inputs import Angles, rotate
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, slots=True)
class AbsorbedRows:
    """What attention takes of the tokens.

    Attributes:
        q_latent: ``[heads, tokens, latent]``, the query's part without position, in latent space.
        q_pe: ``[tokens, heads * rope]``, its rotated part.
        entry: ``[tokens, latent + rope]``, what goes into the cache.
    """

    q_latent: ir.Value
    q_pe: ir.Value
    entry: ir.Value


def absorbed_rows(
    model: ModelBuilder,
    config: DeepseekV2Config,
    name: str,
    prefix: str,
    found: Projected,
    inputs: Angles,
) -> AbsorbedRows:
    """Normalise the latent, rotate, and bring the query into the latent space."""
    b, heads, latent = model.b, config.num_attention_heads, config.kv_lora_rank
    nope, rope = config.qk_nope_head_dim, config.qk_rope_head_dim
    q_nope, c_kv, pe = _runs(model, config, name, found)
    c_kv = model.norm(f"{name}/kv_norm", f"{prefix}.kv_a_layernorm.weight", c_kv, latent, EPSILON)
    # The rotary part of all heads, and the key's that they share, turn in one node. The angles are
    # float32, and so is the product: bfloat16 would be off by a degree.
    width = (heads + 1) * rope
    pe = b.cast(pe, f"{name}/pe/float32", ["tokens", width], FLOAT)
    pe = rotate(b, f"{name}/rotary", pe, heads + 1, rope, inputs)
    pe = b.as_activation(pe, f"{name}/rotated", ["tokens", width])
    dtype = b.activations
    q_pe, k_pe = b.multi_op(
        "Split",
        f"{name}/split_rotary",
        [pe, b.ints(heads * rope, rope)],
        [
            (f"{name}/q_pe", dtype, ["tokens", heads * rope]),
            (f"{name}/k_pe", dtype, ["tokens", rope]),
        ],
        axis=1,
    )
    entry = b.op(
        "Concat",
        f"{name}/latent",
        [c_kv, k_pe],
        ["tokens", config.cache_width],
        dtype=dtype,
        axis=1,
    )
    q_latent = b.op(
        "MatMul",
        f"{name}/absorb_k",
        [
            by_head(b, f"{name}/q_nope_heads", q_nope, heads, nope),
            absorbed(model, config, name, prefix, "k"),
        ],
        [heads, "tokens", latent],
    )
    return AbsorbedRows(q_latent, q_pe, entry)


def leave_latent(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, mixed: ir.Value
) -> ir.Value:
    """Bring the mixed latent ``[heads, tokens, latent]`` out: ``[tokens, heads * v]``."""
    b, heads, value = model.b, config.num_attention_heads, config.v_head_dim
    out = b.op(
        "MatMul",
        f"{name}/absorb_v",
        [mixed, absorbed(model, config, name, prefix, "v")],
        [heads, "tokens", value],
    )
    dtype = b.activations
    out = b.op(
        "Transpose",
        f"{name}/by_token",
        [out],
        ["tokens", heads, value],
        dtype=dtype,
        perm=[1, 0, 2],
    )
    width = heads * value
    return b.op(
        "Reshape", f"{name}/heads", [out, b.ints(-1, width)], ["tokens", width], dtype=dtype
    )


def by_head(b: GraphBuilder, name: str, x: ir.Value, heads: int, width: int) -> ir.Value:
    """Return ``x`` ``[tokens, heads * width]`` as ``[heads, tokens, width]``."""
    dtype = b.activations
    split = b.op(
        "Reshape",
        f"{name}/split",
        [x, b.ints(-1, heads, width)],
        ["tokens", heads, width],
        dtype=dtype,
    )
    shape: list[Dim] = [heads, "tokens", width]
    return b.op("Transpose", name, [split], shape, dtype=dtype, perm=[1, 0, 2])


def _runs(
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
    dtype = model.b.activations
    pe = model.b.op("Concat", f"{name}/pe", [q_pe, k_pe], shape, dtype=dtype, axis=1)
    return q_nope, c_kv, pe
