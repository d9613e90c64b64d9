"""Latent attention over slots: absorbed, as in `trtcoder.export.graph.attention`."""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.absorbed_rows import absorbed_rows, leave_latent
from trtcoder.export.graph.attention_projections import project
from trtcoder.export.graph.builder import Dim
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
    latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
    name, prefix = f"layers.{layer}/attention", f"model.layers.{layer}.self_attn"
    projected = project(model, config, name, prefix, x)
    rows = absorbed_rows(model, config, name, prefix, projected, inputs)
    keys = _written(model, layer, width, rows.entry, inputs)
    shape: list[Dim] = ["tokens", heads, latent]
    q_latent = b.op("Transpose", f"{name}/q_latent", [rows.q_latent], shape, perm=[1, 0, 2])
    by_token = b.ints(-1, heads, rope)
    q_pe = b.op("Reshape", f"{name}/q_pe_heads", [rows.q_pe, by_token], ["tokens", heads, rope])
    query = b.op("Concat", f"{name}/query", [q_latent, q_pe], ["tokens", heads, width], axis=2)
    shape = ["slots", 1, "queries", width]
    query = b.op("Reshape", f"{name}/queries", [query, inputs.by_slot(b, heads, width)], shape)
    weights = _weights(model, config, name, query, keys, inputs)
    # Multiplying with the whole row and dropping k_pe's share is cheaper than a strided copy.
    mixed = b.op("MatMul", f"{name}/mix", [weights, keys], shape)
    shape = ["tokens", heads, width]
    mixed = b.op("Reshape", f"{name}/mix_by_token", [mixed, b.ints(-1, heads, width)], shape)
    bounds = [b.ints(0), b.ints(latent), b.ints(2)]
    mixed = b.op("Slice", f"{name}/mixed_latent", [mixed, *bounds], ["tokens", heads, latent])
    shape = [heads, "tokens", latent]
    mixed = b.op("Transpose", f"{name}/mix_by_head", [mixed], shape, perm=[1, 0, 2])
    out = leave_latent(model, config, name, prefix, mixed)
    return model.linear(f"{name}/o_proj", "attention", out, model.matrix(f"{prefix}.o_proj.weight"))


def _written(
    model: SlotModel, layer: int, width: int, entry: ir.Value, inputs: SlotInputs
) -> ir.Value:
    """Write the tokens' rows ``[tokens, width]``; return those that attention reads."""
    b, name = model.b, f"layers.{layer}/attention"
    shape: list[Dim] = ["slots", 1, "rows", width]
    cache = b.input(f"cache.{layer}", HALF, shape)
    by_slot = inputs.by_slot(b, 1, width)
    entry = b.op("Reshape", f"{name}/entry", [entry, by_slot], ["slots", 1, "length", width])
    keys = b.op(
        "TensorScatter",
        f"{name}/cache",
        [cache, entry, inputs.firsts(b)],
        shape,
        axis=2,
        mode="linear",
    )
    b.output(keys, f"cache.{layer}.out")
    bounds = [b.ints(0), inputs.extent(b), b.ints(2)]
    shape = ["slots", 1, "window", width]
    return b.op("Slice", f"{name}/window", [keys, *bounds], shape)


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
    shape: list[Dim] = ["slots", 1, width, "window"]
    columns = b.op("Transpose", f"{name}/keys", [keys], shape, perm=[0, 1, 3, 2])
    scores = b.op("MatMul", f"{name}/products", [query, columns], flat)
    scores = b.op(
        "Reshape", f"{name}/products_by_token", [scores, inputs.by_token(b, heads)], by_token
    )
    scores = b.cast(scores, f"{name}/wide_products", by_token, FLOAT)
    scale = b.scalar(config.softmax_scale)
    scores = b.op("Mul", f"{name}/scores", [scores, scale], by_token, dtype=FLOAT)
    seen = [inputs.seen(b), scores, b.scalar(float("-inf"))]
    scores = b.op("Where", f"{name}/masked", seen, by_token, dtype=FLOAT)
    weights = b.op("Softmax", f"{name}/softmax", [scores], by_token, dtype=FLOAT, axis=-1)
    weights = b.cast(weights, f"{name}/weights", by_token, HALF)
    return b.op("Reshape", f"{name}/weights_by_query", [weights, b.ints(0, 1, -1, 0)], flat)
