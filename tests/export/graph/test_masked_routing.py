"""The routing that CPU, CUDA and TensorRT-RTX share, through QMoE on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.reference.experts import PackedExperts, chosen_experts, mixed
from trtcoder.export.graph.builder import CONTRIB, GraphBuilder
from trtcoder.export.graph.masked_routing import route_masked, scale_routed
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

HIDDEN, INNER, EXPERTS, TOP_K, BLOCK = 256, 128, 16, 4, 32
KINDS = {
    "greedy": tiny_config(),
    "normalised": tiny_config(norm_topk_prob=True),
    "grouped": tiny_grouped_config(),
    "grouped and normalised": tiny_grouped_config(norm_topk_prob=True),
}
# Of the largest value. With float16 activations the kernel rounds what it takes and gives.
TOLERANCES = {ir.DataType.FLOAT: 1e-6, ir.DataType.FLOAT16: 1e-3}
TYPES = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16}


def config_of(kind: str) -> DeepseekV2Config:
    return DeepseekV2Config.from_dict(KINDS[kind])


def wanted_routing(config: DeepseekV2Config, logits: NDArray[np.float32]) -> list[dict[int, float]]:
    grouped = config.topk_method == "group_limited_greedy"
    return chosen_experts(
        logits,
        config.num_experts_per_tok,
        groups=config.n_group if grouped else 1,
        top_groups=config.topk_group if grouped else 1,
        normalize=config.norm_topk_prob,
        scale=config.routed_scaling_factor,
    )


@cache
def experts(dtype: ir.DataType) -> PackedExperts:
    rng = np.random.default_rng(1)
    return PackedExperts.random(
        rng, EXPERTS, HIDDEN, INNER, bits=4, block=BLOCK, dtype=TYPES[dtype]
    )


@cache
def session(kind: str, dtype: ir.DataType) -> onnxruntime.InferenceSession:
    """Return a session that maps x and logits to masked logits and the experts' output."""
    b, config, packed = GraphBuilder("experts"), config_of(kind), experts(dtype)
    x = b.input("x", dtype, ["tokens", HIDDEN])
    logits = b.input("logits", ir.DataType.FLOAT, ["tokens", EXPERTS])
    routing = route_masked(b, "moe", logits, config, dtype)
    names = ("gate_up", "gate_up_scales", "down", "down_scales")
    weights = [b.constant(getattr(packed, name), name) for name in names]
    routed = b.op(
        "QMoE",
        "moe/experts",
        [x, routing.logits, weights[0], weights[1], None, weights[2], weights[3]],
        ["tokens", HIDDEN],
        dtype=dtype,
        domain=CONTRIB,
        k=config.num_experts_per_tok,
        expert_weight_bits=packed.bits,
        block_size=packed.block,
        normalize_routing_weights=1,
        activation_type="swiglu",
        swiglu_fusion=1,
        activation_alpha=1.0,
        activation_beta=0.0,
    )
    copy = b.op("Identity", "copy", [routing.logits], ["tokens", EXPERTS], dtype=dtype)
    b.output(copy, "masked")
    b.output(scale_routed(b, "moe", routed, routing, HIDDEN, dtype), "out")
    return onnxruntime.InferenceSession(ir.to_proto(b.model("", {})).SerializeToString())


def run(kind: str, dtype: ir.DataType, logits: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    x = np.random.default_rng(2).standard_normal((len(logits), HIDDEN)).astype(TYPES[dtype])
    masked, out = session(kind, dtype).run(["masked", "out"], {"x": x, "logits": logits})
    return x, masked, out


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_experts_told_by_logits_alone_are_the_papers(kind: str, dtype: ir.DataType) -> None:
    logits = np.random.default_rng(3).standard_normal((33, EXPERTS)).astype(np.float32) * 4
    x, _, out = run(kind, dtype, logits)
    wanted = mixed(x, experts(dtype), wanted_routing(config_of(kind), logits))
    error = np.abs(out - wanted).max() / np.abs(wanted).max()
    assert error < TOLERANCES[dtype]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(TYPES)),
    st.integers(0, 10_000),
    # Beyond it, groups tie: their probabilities are 0 in float32.
    st.floats(0.01, 15),
)
def test_only_the_chosen_experts_are_in_reach(
    kind: str, dtype: ir.DataType, seed: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((3, EXPERTS)) * spread).astype(np.float32)
    _, masked, out = run(kind, dtype, logits)
    for row, chosen in zip(masked, wanted_routing(config_of(kind), logits), strict=True):
        assert set(np.argsort(-row.astype(np.float64))[:TOP_K]) == set(chosen)
        assert row.max() == 0
        rest = np.delete(row, list(chosen))
        assert (rest <= -60000).all()
        # Nothing that a kernel subtracts from it overflows.
        assert np.isfinite(rest.astype(np.float32) - 1).all()
    assert np.isfinite(out).all()
