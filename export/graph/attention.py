"""Multi-head latent attention in its absorbed form.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1. The cache holds the normalised latent c_kv and
the rotated shared key k_pe. The query is brought into the latent space by W_UK, and the output
back out of it by W_UV, so keys and values per head are never formed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.export.graph.builder import CONTRIB, GraphBuilder
from trtcoder.export.graph.inputs import Inputs, rotate
from trtcoder.export.graph.latent_cache import Cache, store
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.weights.matrix import Piece
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT = ir.DataType.FLOAT
# Of the two norms inside attention, whatever rms_norm_eps is: so the published code has it.
EPSILON = 1e-6


def latent_attention(
    model: ModelBuilder,
    config: DeepseekV2Config,
    layer: int,
    x: ir.Value,
    inputs: Inputs,
    cache: Cache,
) -> ir.Value:
    """Attend from ``x`` ``[tokens, hidden]`` to the cache, after writing the tokens to it."""
    b = model.b
    name, prefix = f"layers.{layer}/attention", f"model.layers.{layer}.self_attn"
    heads, latent = config.num_attention_heads, config.kv_lora_rank
    nope, rope, value = (
        config.qk_nope_head_dim,
        config.qk_rope_head_dim,
        config.v_head_dim,
    )
    q_nope, c_kv, pe = _queries_and_latent(model, config, name, prefix, x)
    c_kv = model.norm(f"{name}/kv_norm", f"{prefix}.kv_a_layernorm.weight", c_kv, latent, EPSILON)
    # The rotary part of all heads, and the key's that they share, turn in one node.
    pe = rotate(b, f"{name}/rotary", pe, heads + 1, rope, inputs)
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
                    _by_head(b, f"{name}/q_nope_heads", q_nope, heads, nope),
                    _absorbed(model, config, name, prefix, "k"),
                ],
                [heads, "tokens", latent],
            ),
            _by_head(b, f"{name}/q_pe_heads", q_pe, heads, rope),
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
    scores = b.op("Add", f"{name}/masked", [scores, inputs.bias], [heads, "tokens", "rows"])
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
        [mixed, _absorbed(model, config, name, prefix, "v")],
        [heads, "tokens", value],
    )
    out = b.op("Transpose", f"{name}/by_token", [out], ["tokens", heads, value], perm=[1, 0, 2])
    out = b.op(
        "Reshape", f"{name}/heads", [out, b.ints(-1, heads * value)], ["tokens", heads * value]
    )
    return model.linear(f"{name}/o_proj", "attention", out, model.matrix(f"{prefix}.o_proj.weight"))


def _queries_and_latent(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, x: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return q_nope ``[tokens, heads * nope]``, c_kv before its norm, and q_pe with k_pe.

    The rows of the projections are reordered so that one matmul yields the three runs, each
    of them contiguous.
    """
    b = model.b
    heads, nope, rope = (
        config.num_attention_heads,
        config.qk_nope_head_dim,
        config.qk_rope_head_dim,
    )
    latent = config.kv_lora_rank
    by_head = np.arange(heads * (nope + rope), dtype=np.int64).reshape(heads, nope + rope)
    nope_rows, pe_rows = by_head[:, :nope].ravel(), by_head[:, nope:].ravel()
    kv_a = f"{prefix}.kv_a_proj_with_mqa.weight"
    latent_rows = np.arange(latent, dtype=np.int64)
    k_pe_rows = np.arange(latent, latent + rope, dtype=np.int64)
    if config.q_lora_rank is None:
        q_proj = f"{prefix}.q_proj.weight"
        fused = model.linear(
            f"{name}/q_kv_a_proj",
            "attention",
            x,
            model.matrix(
                Piece(q_proj, nope_rows),
                Piece(kv_a, latent_rows),
                Piece(q_proj, pe_rows),
                Piece(kv_a, k_pe_rows),
            ),
        )
        sizes = (heads * nope, latent, (heads + 1) * rope)
        q_nope, c_kv, pe = model.split(name, "split", fused, ("q_nope", "c_kv", "pe"), sizes)
        return q_nope, c_kv, pe
    rank = config.q_lora_rank
    fused = model.linear(
        f"{name}/q_a_kv_a_proj",
        "attention",
        x,
        model.matrix(Piece(f"{prefix}.q_a_proj.weight"), Piece(kv_a)),
    )
    q_a, c_kv, k_pe = model.split(
        name, "split_a", fused, ("q_a", "c_kv", "k_pe_raw"), (rank, latent, rope)
    )
    q_a = model.norm(f"{name}/q_norm", f"{prefix}.q_a_layernorm.weight", q_a, rank, EPSILON)
    q_b = f"{prefix}.q_b_proj.weight"
    q = model.linear(
        f"{name}/q_b_proj",
        "attention",
        q_a,
        model.matrix(Piece(q_b, nope_rows), Piece(q_b, pe_rows)),
    )
    q_nope, q_pe = model.split(
        name, "split_b", q, ("q_nope", "q_pe_raw"), (heads * nope, heads * rope)
    )
    pe = b.op("Concat", f"{name}/pe", [q_pe, k_pe], ["tokens", (heads + 1) * rope], axis=1)
    return q_nope, c_kv, pe


def _by_head(b: GraphBuilder, name: str, x: ir.Value, heads: int, width: int) -> ir.Value:
    split = b.op(
        "Reshape", f"{name}/split", [x, b.ints(-1, heads, width)], ["tokens", heads, width]
    )
    return b.op("Transpose", name, [split], [heads, "tokens", width], perm=[1, 0, 2])


def _absorbed(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, role: str
) -> ir.Value:
    """Return W_UK ``[heads, nope, latent]`` (k) or W_UV transposed ``[heads, latent, v]`` (v).

    Both keep the checkpoint's values: no stock kernel multiplies batches with quantized weights.
    """
    heads, nope, latent = (
        config.num_attention_heads,
        config.qk_nope_head_dim,
        config.kv_lora_rank,
    )
    tensor = f"{prefix}.kv_b_proj.weight"

    def read() -> NDArray[np.float32]:
        whole = model.checkpoint.read(tensor).reshape(heads, nope + config.v_head_dim, latent)
        if role == "k":
            return np.ascontiguousarray(whole[:, :nope])
        out = np.ascontiguousarray(whole[:, nope:].transpose(0, 2, 1))
        scale = model.b.plan.quantizer.input_scale(f"{name}/heads")
        return out if scale is None else out / scale.reshape(heads, 1, config.v_head_dim)

    shape = (heads, nope, latent) if role == "k" else (heads, latent, config.v_head_dim)
    return model.parameter(f"{name}/absorb_{role}/weight", "absorbed", shape, tensor, read)
