"""DeepSeek-V2 over slots, in parts: a few decoder layers each, and the head.

Sources: as for `trtcoder.export.graph.deepseek_v2`.
"""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.export.graph.builder import Dim
from trtcoder.export.graph.slots.attention import attend_in_slots
from trtcoder.export.graph.slots.experts import experts
from trtcoder.export.graph.slots.inputs import SlotInputs, declare_slot_inputs
from trtcoder.export.graph.slots.model import FLOAT, SlotModel
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def declare_layers(model: SlotModel, config: DeepseekV2Config, layers: range) -> None:
    """Declare a graph of consecutive decoder layers: ``hidden`` in, ``layers.N/output`` out."""
    b = model.b
    inputs = declare_slot_inputs(b, config.hidden_size, config.qk_rope_head_dim)
    residual = inputs.hidden
    for layer in layers:
        model = model.in_layer(layer)
        residual = _layer(model, config, layer, residual, inputs)
    # In front of the caches, which the layers have made outputs already.
    b.outputs.insert(0, residual)


def declare_head(model: SlotModel, config: DeepseekV2Config) -> None:
    """Declare the graph of the last norm and the output matrix.

    ``hidden`` float32 ``[samples, H]`` in, ``logits`` float32 ``[samples, V]`` out.
    """
    b, hidden = model.b, config.hidden_size
    model = model.in_layer(None)
    x = b.input("hidden", FLOAT, ["tokens", hidden])
    normed = model.norm("final_norm", "model.norm.weight", x, hidden, config.rms_norm_eps)
    tied = config.tie_word_embeddings
    source = model.matrix("model.embed_tokens.weight" if tied else "lm_head.weight")
    logits = model.linear("lm_head", "lm_head", normed, source)
    b.output(b.cast(logits, "logits", ["tokens", source.rows], FLOAT), "logits")


def _layer(
    model: SlotModel,
    config: DeepseekV2Config,
    layer: int,
    residual: ir.Value,
    inputs: SlotInputs,
) -> ir.Value:
    b, hidden, epsilon = model.b, config.hidden_size, config.rms_norm_eps
    name, prefix = f"layers.{layer}", f"model.layers.{layer}"
    shape: list[Dim] = ["tokens", hidden]
    normed = model.norm(
        f"{name}/input_norm", f"{prefix}.input_layernorm.weight", residual, hidden, epsilon
    )
    branch = attend_in_slots(model, config, layer, normed, inputs)
    branch = b.cast(branch, f"{name}/attention/wide", shape, FLOAT)
    residual = b.op("Add", f"{name}/attention/residual", [residual, branch], shape, dtype=FLOAT)
    post = f"{name}/post_attention_norm"
    tensor = f"{prefix}.post_attention_layernorm.weight"
    wide = model.norm_wide(post, tensor, residual, hidden, epsilon)
    normed = model.half(post, wide, hidden)
    if config.is_moe_layer(layer):
        branch = experts(model, config, layer, wide, normed)
    else:
        branch = model.swiglu(f"{name}/mlp", f"{prefix}.mlp", normed)
        branch = b.cast(branch, f"{name}/mlp/wide", shape, FLOAT)
    return b.op("Add", f"{name}/output", [residual, branch], shape, dtype=FLOAT)
