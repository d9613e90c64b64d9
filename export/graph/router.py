"""The router: which experts a token goes to, and with what weights.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.2; transformers 5.23.0,
models/deepseek_v2/modeling_deepseek_v2.py, `DeepseekV2Moe.route_tokens_to_experts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


@dataclass(frozen=True, slots=True)
class Routing:
    """Router results.

    Attributes:
        selection: float32 ``[tokens, E]``, logits; -inf outside the chosen groups.
        mixing: float32 ``[tokens, E]``, the weight of each expert if it is chosen.
        total: float32 ``[tokens, 1]``, the sum of the chosen experts' weights where it was asked
            for and is not 1.
    """

    selection: ir.Value
    mixing: ir.Value
    total: ir.Value | None


def route(
    b: GraphBuilder, name: str, logits: ir.Value, config: DeepseekV2Config, *, with_total: bool
) -> Routing:
    """Route by softmax over ``logits`` ``[tokens, E]``, in float32."""
    experts, top_k = config.n_routed_experts, config.num_experts_per_tok
    shape: list[Dim] = ["tokens", experts]
    probabilities = b.op(
        "Softmax", f"{name}/router/probabilities", [logits], shape, axis=-1, dtype=FLOAT
    )
    selection = selection_logits(b, name, probabilities, logits, config)

    def total(weights: ir.Value) -> ir.Value:
        role = f"{name}/router/top"
        if selection is logits:  # the largest are chosen, and need not be looked up
            return _sum(b, name, top(b, role, weights, top_k)[0])
        return chosen_sum(b, name, weights, top(b, role, selection, top_k)[1], top_k)

    if config.norm_topk_prob and top_k > 1:
        factors = [probabilities, total(probabilities)]
        mixing = b.op("Div", f"{name}/router/mixing", factors, shape, dtype=FLOAT)
        return Routing(selection, mixing, None)
    mixing = probabilities
    if config.routed_scaling_factor != 1.0:
        scale = b.scalar(config.routed_scaling_factor)
        mixing = b.op("Mul", f"{name}/router/mixing", [probabilities, scale], shape, dtype=FLOAT)
    return Routing(selection, mixing, total(mixing) if with_total else None)


def selection_logits(
    b: GraphBuilder, name: str, probabilities: ir.Value, logits: ir.Value, config: DeepseekV2Config
) -> ir.Value:
    """Return the logits by which experts are chosen: -inf outside the chosen groups."""
    if config.topk_method == "group_limited_greedy":
        return _limit_to_groups(b, name, probabilities, logits, config)
    return logits


def chosen_sum(
    b: GraphBuilder, name: str, mixing: ir.Value, chosen: ir.Value, top_k: int
) -> ir.Value:
    """Return the sum of ``mixing`` over ``chosen`` experts ``[tokens, top_k]``: ``[tokens, 1]``."""
    weights = b.op(
        "GatherElements",
        f"{name}/router/top_weights",
        [mixing, chosen],
        ["tokens", top_k],
        axis=1,
        dtype=FLOAT,
    )
    return _sum(b, name, weights)


def _sum(b: GraphBuilder, name: str, weights: ir.Value) -> ir.Value:
    return b.op(
        "ReduceSum",
        f"{name}/router/total",
        [weights, b.ints(1)],
        ["tokens", 1],
        keepdims=1,
        dtype=FLOAT,
    )


def _limit_to_groups(
    b: GraphBuilder, name: str, probabilities: ir.Value, logits: ir.Value, config: DeepseekV2Config
) -> ir.Value:
    """Keep the logits of the ``topk_group`` groups whose best expert is most probable."""
    groups, kept = config.n_group, config.topk_group
    size = config.n_routed_experts // groups
    grouped = b.op(
        "Reshape",
        f"{name}/router/grouped",
        [probabilities, b.ints(-1, groups, size)],
        ["tokens", groups, size],
        dtype=FLOAT,
    )
    # The best expert of each group. On CUDA a ReduceMax would need cuDNN.
    best, _ = b.multi_op(
        "TopK",
        f"{name}/router/group_best",
        [grouped, b.ints(1)],
        [
            (f"{name}/router/group_best/values", FLOAT, ["tokens", groups, 1]),
            (f"{name}/router/group_best/indices", INT64, ["tokens", groups, 1]),
        ],
        axis=-1,
    )
    best = b.op(
        "Squeeze", f"{name}/router/group_scores", [best, b.ints(2)], ["tokens", groups], dtype=FLOAT
    )
    _, chosen = top(b, f"{name}/router/groups", best, kept)
    blocked = b.op(
        "ConstantOfShape",
        f"{name}/router/all_blocked",
        [b.op("Shape", f"{name}/router/group_shape", [best], [2], dtype=INT64)],
        ["tokens", groups],
        value=ir.tensor([float("-inf")], dtype=FLOAT),
        dtype=FLOAT,
    )
    opened = b.op(
        "Expand",
        f"{name}/router/opened",
        [
            b.scalar(0.0),
            b.op("Shape", f"{name}/router/chosen_shape", [chosen], [2], dtype=INT64),
        ],
        ["tokens", kept],
        dtype=FLOAT,
    )
    bias = b.op(
        "ScatterElements",
        f"{name}/router/group_bias",
        [blocked, chosen, opened],
        ["tokens", groups],
        axis=1,
        dtype=FLOAT,
    )
    bias = b.op(
        "Unsqueeze",
        f"{name}/router/group_column",
        [bias, b.ints(2)],
        ["tokens", groups, 1],
        dtype=FLOAT,
    )
    limited = b.op(
        "Add",
        f"{name}/router/limited_groups",
        [
            b.op(
                "Reshape",
                f"{name}/router/grouped_logits",
                [logits, b.ints(-1, groups, size)],
                ["tokens", groups, size],
                dtype=FLOAT,
            ),
            bias,
        ],
        ["tokens", groups, size],
        dtype=FLOAT,
    )
    return b.op(
        "Reshape",
        f"{name}/router/limited",
        [limited, b.ints(-1, config.n_routed_experts)],
        ["tokens", config.n_routed_experts],
        dtype=FLOAT,
    )


def top(b: GraphBuilder, name: str, x: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
    """Return the ``count`` largest of each row of ``x`` and where they are, the largest first."""
    values, indices = b.multi_op(
        "TopK",
        name,
        [x, b.ints(count)],
        [
            (f"{name}/values", FLOAT, ["tokens", count]),
            (f"{name}/indices", INT64, ["tokens", count]),
        ],
        axis=-1,
        largest=1,
        sorted=1,
    )
    return values, indices
