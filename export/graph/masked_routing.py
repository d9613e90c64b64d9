"""Routing as every kernel of fused experts can be told it: by logits alone.

ONNX Runtime's `QMoE` takes mixing weights on the CPU, on CUDA it never reads them, and TensorRT's
plugin of the same name has no input for them. All three take the softmax over the `k` largest of
the logits that they are given. So the logits of the chosen experts stand there minus the largest of
them, the others so low that nobody chooses them, and the output is multiplied with what the softmax
divided by: the sum of the chosen probabilities, times the routed scaling factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.router import chosen_sum, selection_logits, top
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64

# The logits of experts that are not chosen: near the lowest float16, with room for a kernel to
# subtract from it.
LOWEST = -60000.0


@dataclass(frozen=True, slots=True)
class MaskedRouting:
    """What fused experts take, and what their output is multiplied with.

    Attributes:
        logits: ``[tokens, E]``, in the activations' type: 0 for the best of the chosen experts,
            negative for the others of them, far below for those that are not chosen.
        factor: float32 ``[tokens, 1]``; None where it is 1, because weights are normalised.
    """

    logits: ir.Value
    factor: ir.Value | None


def route_masked(
    b: GraphBuilder,
    name: str,
    logits: ir.Value,
    config: DeepseekV2Config,
    dtype: ir.DataType | None = None,
) -> MaskedRouting:
    """Route by softmax over ``logits``, float32 ``[tokens, E]``.

    ``dtype`` is the experts' type, by default the activations'.

    The operator must have ``normalize_routing_weights=1`` and ``k`` experts a token, and its output
    go through `scale_routed`. No node needs cuDNN.
    """
    experts, top_k = config.n_routed_experts, config.num_experts_per_tok
    role = f"{name}/router"
    shape: list[Dim] = ["tokens", experts]
    chosen_shape: list[Dim] = ["tokens", top_k]
    probabilities = b.op("Softmax", f"{role}/probabilities", [logits], shape, dtype=FLOAT, axis=-1)
    selection = selection_logits(b, name, probabilities, logits, config)
    values, chosen = top(b, f"{role}/top", selection, top_k)
    # The values are sorted, so the first is the largest.
    largest = b.op(
        "Slice",
        f"{role}/largest",
        [values, b.ints(0), b.ints(1), b.ints(1)],
        ["tokens", 1],
        dtype=FLOAT,
    )
    below = b.op("Sub", f"{role}/below_largest", [values, largest], chosen_shape, dtype=FLOAT)
    masked = b.op(
        "ConstantOfShape",
        f"{role}/all_masked",
        [b.op("Shape", f"{role}/shape", [logits], [2], dtype=INT64)],
        shape,
        dtype=FLOAT,
        value=ir.tensor([LOWEST], dtype=FLOAT),
    )
    masked = b.op(
        "ScatterElements", f"{role}/masked", [masked, chosen, below], shape, dtype=FLOAT, axis=1
    )
    masked = _as_type(b, masked, f"{role}/told", shape, dtype)
    if config.norm_topk_prob and top_k > 1:
        # As the published code has it: weights that are normalised are not scaled.
        return MaskedRouting(masked, None)
    factor = chosen_sum(b, name, probabilities, chosen, top_k)
    if config.routed_scaling_factor != 1.0:
        scale = b.scalar(config.routed_scaling_factor)
        factor = b.op("Mul", f"{role}/factor", [factor, scale], ["tokens", 1], dtype=FLOAT)
    return MaskedRouting(masked, factor)


def scale_routed(
    b: GraphBuilder,
    name: str,
    routed: ir.Value,
    routing: MaskedRouting,
    hidden: int,
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """Return the experts' output ``[tokens, hidden]`` as the router weighs it."""
    if routing.factor is None:
        return routed
    factor = _as_type(b, routing.factor, f"{name}/router/factor_told", ["tokens", 1], dtype)
    return b.op("Mul", f"{name}/scaled", [routed, factor], ["tokens", hidden], dtype=dtype)


def _as_type(
    b: GraphBuilder, value: ir.Value, name: str, shape: list[Dim], dtype: ir.DataType | None
) -> ir.Value:
    if dtype is None:
        return b.as_activation(value, name, shape)
    return b.cast(value, name, shape, dtype)
