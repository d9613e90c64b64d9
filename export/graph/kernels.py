"""Our own operators (`plugins/ort`) as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.panels import panel_inputs
from trtcoder.export.weights.panels import PanelMatrix
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.plugins.library import DOMAIN

# Those that take weights in panels, whatever else they do.
PANEL_OPERATORS = ("Linear", "Mlp", "Experts")


@dataclass(frozen=True, slots=True)
class PanelMlp:
    """Gate and up, as a pair, and down: of one MLP, or of experts."""

    gate_up: PanelMatrix
    down: PanelMatrix

    def inputs(self, b: GraphBuilder) -> list[ir.Value | None]:
        """Return its weights as operators take them."""
        return [*panel_inputs(b, self.gate_up), *panel_inputs(b, self.down)]

    def attributes(self, role: str) -> dict[str, int]:
        """Return its form as the attributes of an operator, where it has this role."""
        return {
            f"{role}_{name}_{key}": value
            for name, matrix in (("gate_up", self.gate_up), ("down", self.down))
            for key, value in (
                ("bits", matrix.scheme.bits),
                ("block", _block(matrix)),
            )
        }


def rms_norm(
    b: GraphBuilder, name: str, x: ir.Value, weight: ir.Value, width: int, epsilon: float
) -> ir.Value:
    """Normalise ``x`` ``[tokens, width]`` by its root mean square."""
    return b.op("RmsNorm", name, [x, weight], ["tokens", width], domain=DOMAIN, epsilon=epsilon)


def skip_norm(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    residual: ir.Value,
    weight: ir.Value,
    total: str,
    width: int,
    epsilon: float,
) -> tuple[ir.Value, ir.Value]:
    """Return the norm of ``x + residual``, and that sum, which is called ``total``."""
    shape: list[Dim] = ["tokens", width]
    normed, summed = b.multi_op(
        "RmsNorm",
        name,
        [x, weight, residual],
        [(name, None, shape), (total, None, shape)],
        domain=DOMAIN,
        epsilon=epsilon,
    )
    return normed, summed


def linear(b: GraphBuilder, name: str, x: ir.Value, matrix: PanelMatrix, rows: str) -> ir.Value:
    """Multiply ``x`` ``[rows, K]`` with the transpose of ``matrix`` ``[N, K]``: ``[rows, N]``."""
    return b.op(
        "Linear",
        name,
        [x, *panel_inputs(b, matrix)],
        [rows, matrix.rows],
        domain=DOMAIN,
        N=matrix.rows,
        K=matrix.width,
        bits=matrix.scheme.bits,
        block=_block(matrix),
    )


def _block(matrix: PanelMatrix) -> int:
    """Return the columns of a block; 0 of float32, which has none."""
    return 0 if matrix.scheme.is_float else matrix.scheme.block_size


def mlp(b: GraphBuilder, name: str, x: ir.Value, weights: PanelMlp) -> ir.Value:
    """Return ``down(silu(gate x) * up x)`` of ``x`` ``[tokens, H]``: ``[tokens, H]``."""
    hidden, inner = weights.down.rows, weights.down.width
    form: dict[str, Any] = weights.attributes("shared")
    return b.op(
        "Mlp",
        name,
        [x, *weights.inputs(b)],
        ["tokens", hidden],
        domain=DOMAIN,
        hidden=hidden,
        inner=inner,
        **form,
    )


def experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    router: ir.Value,
    routed: PanelMlp,
    shared: PanelMlp | None,
    config: DeepseekV2Config,
    router_name: str,
) -> ir.Value:
    """Route ``x`` ``[tokens, H]``, run each token's experts and the shared MLP, and add all.

    ``router`` is ``[E, H]`` in float32 or bfloat16; ``router_name`` is what its logits are called,
    which verification watches.
    """
    count, hidden = config.n_routed_experts, routed.down.rows
    grouped = config.topk_method == "group_limited_greedy"
    normalized = config.norm_topk_prob and config.num_experts_per_tok > 1
    form: dict[str, Any] = routed.attributes("experts")
    given: Sequence[ir.Value | None] = [x, router, *routed.inputs(b)]
    if shared is not None:
        given = [*given, *shared.inputs(b)]
        form |= shared.attributes("shared")
    float_ = ir.DataType.FLOAT
    out, _ = b.multi_op(
        "Experts",
        name,
        given,
        [(name, float_, ["tokens", hidden]), (router_name, float_, ["tokens", count])],
        domain=DOMAIN,
        hidden=hidden,
        inner=routed.down.width,
        experts=count,
        top_k=config.num_experts_per_tok,
        groups=config.n_group if grouped else 1,
        top_groups=config.topk_group if grouped else 1,
        normalize=int(normalized),
        # As the published code has it: weights that are normalised are not scaled.
        scale=1.0 if normalized else float(config.routed_scaling_factor),
        shared_inner=0 if shared is None else shared.down.width,
        **form,
    )
    return out
