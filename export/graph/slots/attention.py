"""Latent attention over slots: absorbed, as in `trtcoder.export.graph.attention`."""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.absorbed_rows import by_head, runs
from trtcoder.export.graph.attention_projections import EPSILON, absorbed, project
from trtcoder.export.graph.builder import Dim
from trtcoder.export.graph.inputs import rotate
from trtcoder.export.graph.slots.inputs import SlotInputs
from trtcoder.export.graph.slots.model import FLOAT, HALF, SlotModel
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def attend_in_slots(
    model: SlotModel, config: DeepseekV2Config, layer: int, x: ir.Value, inputs: SlotInputs
) -> ir.Value:
    """Write the tokens to their slots and attend from ``x``, float16 ``[tokens, hidden]``.

    The cache is float16 ``[slots, 1, rows, 576]`` (Lite's width), updated in place. All heads of a
    slot share its rows, so the heads of its tokens are rows of one matmul, the *queries*.
    """
    b, heads, width = model.b, config.num_attention_heads, config.cache_width
    name, prefix = f"layers.{layer}/attention", f"model.layers.{layer}.self_attn"
    query, entry = _query_and_entry(model, config, name, prefix, x, inputs)
    keys = _written(model, layer, width, entry, inputs)
    shape: list[Dim] = ["slots", 1, "queries", width]
    query = b.op(
        "Reshape", f"{name}/queries", [query, inputs.by_slot(b, heads, width)], shape, dtype=HALF
    )
    weights = _weights(model, config, name, query, keys, inputs)
    # Multiplying with the whole row and dropping k_pe's share is cheaper than a strided copy.
    mixed = b.op("MatMul", f"{name}/mix", [weights, keys], shape, dtype=HALF)
    return _output(model, config, name, prefix, mixed)


def _query_and_entry(
    model: SlotModel,
    config: DeepseekV2Config,
    name: str,
    prefix: str,
    x: ir.Value,
    inputs: SlotInputs,
) -> tuple[ir.Value, ir.Value]:
    """Return the absorbed query ``[tokens, heads, 576]`` and the row to cache ``[tokens, 576]``."""
    b, heads, width = model.b, config.num_attention_heads, config.cache_width
    latent, nope, rope = config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim
    q_nope, c_kv, pe = runs(model, config, name, project(model, config, name, prefix, x))
    c_kv = model.norm(f"{name}/kv_norm", f"{prefix}.kv_a_layernorm.weight", c_kv, latent, EPSILON)
    pe_shape: list[Dim] = ["tokens", (heads + 1) * rope]
    pe = model.cast(f"{name}/wide_pe", pe, FLOAT, pe_shape)
    pe = rotate(b, f"{name}/rotary", pe, heads + 1, rope, inputs.cos, inputs.sin)
    pe = model.cast(f"{name}/rotated", pe, HALF, pe_shape)
    q_pe, k_pe = model.split(name, "split_rotary", pe, ("q_pe", "k_pe"), (heads * rope, rope))
    entry = b.op("Concat", f"{name}/latent", [c_kv, k_pe], ["tokens", width], dtype=HALF, axis=1)
    found = b.op(
        "MatMul",
        f"{name}/absorb_k",
        [
            by_head(b, f"{name}/q_nope_heads", q_nope, heads, nope),
            absorbed(model, config, name, prefix, "k"),
        ],
        [heads, "tokens", latent],
        dtype=HALF,
    )
    found = b.op(
        "Transpose", f"{name}/q_latent", [found], ["tokens", heads, latent], dtype=HALF,
        perm=[1, 0, 2],
    )  # fmt: skip
    q_pe = b.op(
        "Reshape", f"{name}/q_pe_heads", [q_pe, b.ints(-1, heads, rope)], ["tokens", heads, rope],
        dtype=HALF,
    )  # fmt: skip
    shape: list[Dim] = ["tokens", heads, width]
    query = b.op("Concat", f"{name}/query", [found, q_pe], shape, dtype=HALF, axis=2)
    return query, entry


def _written(
    model: SlotModel, layer: int, width: int, entry: ir.Value, inputs: SlotInputs
) -> ir.Value:
    """Write the tokens' rows ``[tokens, width]``; return those that attention reads."""
    b, name = model.b, f"layers.{layer}/attention"
    shape: list[Dim] = ["slots", 1, "rows", width]
    cache = b.input(f"cache.{layer}", HALF, shape)
    entry = b.op(
        "Reshape", f"{name}/entry", [entry, inputs.by_slot(b, 1, width)],
        ["slots", 1, "length", width], dtype=HALF,
    )  # fmt: skip
    keys = b.op(
        "TensorScatter",
        f"{name}/cache",
        [cache, entry, inputs.firsts(b)],
        shape,
        dtype=HALF,
        axis=2,
        mode="linear",
    )
    b.output(keys, f"cache.{layer}.out")
    bounds = [b.ints(0), inputs.extent(b), b.ints(2)]
    shape = ["slots", 1, "window", width]
    return b.op("Slice", f"{name}/window", [keys, *bounds], shape, dtype=HALF)


def _weights(
    model: SlotModel,
    config: DeepseekV2Config,
    name: str,
    query: ir.Value,
    keys: ir.Value,
    inputs: SlotInputs,
) -> ir.Value:
    """Return the softmax over a slot's rows, float16 ``[slots, 1, queries, window]``."""
    b, heads, width = model.b, config.num_attention_heads, config.cache_width
    flat: list[Dim] = ["slots", 1, "queries", "window"]
    by_token: list[Dim] = ["slots", "length", heads, "window"]
    columns = b.op(
        "Transpose", f"{name}/keys", [keys], ["slots", 1, width, "window"], dtype=HALF,
        perm=[0, 1, 3, 2],
    )  # fmt: skip
    scores = b.op("MatMul", f"{name}/products", [query, columns], flat, dtype=HALF)
    scores = b.op(
        "Reshape", f"{name}/products_by_token", [scores, inputs.by_token(b, heads)], by_token,
        dtype=HALF,
    )  # fmt: skip
    scores = model.cast(f"{name}/wide_products", scores, FLOAT, by_token)
    scores = b.op("Mul", f"{name}/scores", [scores, b.scalar(config.softmax_scale)], by_token)
    seen = [inputs.seen(b), scores, b.scalar(float("-inf"))]
    scores = b.op("Where", f"{name}/masked", seen, by_token)
    weights = b.op("Softmax", f"{name}/softmax", [scores], by_token, axis=-1)
    weights = model.cast(f"{name}/weights", weights, HALF, by_token)
    return b.op(
        "Reshape", f"{name}/weights_by_query", [weights, b.ints(0, 1, -1, 0)], flat, dtype=HALF
    )


def _output(
    model: SlotModel, config: DeepseekV2Config, name: str, prefix: str, mixed: ir.Value
) -> ir.Value:
    """Bring ``[slots, 1, queries, 576]`` out of the latent space and through the projection."""
    b, heads, width = model.b, config.num_attention_heads, config.cache_width
    latent, value = config.kv_lora_rank, config.v_head_dim
    out = b.op(
        "Reshape", f"{name}/mix_by_token", [mixed, b.ints(-1, heads, width)],
        ["tokens", heads, width], dtype=HALF,
    )  # fmt: skip
    out = b.op(
        "Slice", f"{name}/mixed_latent", [out, b.ints(0), b.ints(latent), b.ints(2)],
        ["tokens", heads, latent], dtype=HALF,
    )  # fmt: skip
    shape: list[Dim] = [heads, "tokens", latent]
    out = b.op("Transpose", f"{name}/mix_by_head", [out], shape, dtype=HALF, perm=[1, 0, 2])
    weight = absorbed(model, config, name, prefix, "v")
    out = b.op("MatMul", f"{name}/absorb_v", [out, weight], [heads, "tokens", value], dtype=HALF)
    shape = ["tokens", heads, value]
    out = b.op("Transpose", f"{name}/by_token", [out], shape, dtype=HALF, perm=[1, 0, 2])
    out = b.op(
        "Reshape", f"{name}/heads", [out, b.ints(-1, heads * value)], ["tokens", heads * value],
        dtype=HALF,
    )  # fmt: skip
    matrix = model.matrix(f"{prefix}.o_proj.weight")
    return model.linear(f"{name}/o_proj", "attention", out, matrix)
