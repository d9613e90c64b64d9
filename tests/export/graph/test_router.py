from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.router import route
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

EXPERTS, TOP_K, GROUPS, KEPT = 16, 4, 4, 2


@cache
def session(grouped: bool, normalised: bool) -> onnxruntime.InferenceSession:
    """Return a session that maps logits to selection, mixing and, unless 1, their total."""
    make = tiny_grouped_config if grouped else tiny_config
    config = DeepseekV2Config.from_dict(make(norm_topk_prob=normalised))
    b = GraphBuilder("router")
    logits = b.input("logits", ir.DataType.FLOAT, ["tokens", EXPERTS])
    routing = route(b, "moe", logits, config, with_total=True)
    outputs = [routing.selection, routing.mixing, *([routing.total] if routing.total else [])]
    for name, value in zip(("selection", "mixing", "total"), outputs, strict=False):
        copy = b.op("Identity", f"{name}/copy", [value], ["tokens", "n"])
        b.output(copy, name)
    model = ir.to_proto(b.model("", {}))
    return onnxruntime.InferenceSession(model.SerializeToString())


def run(
    logits: NDArray[np.float32], grouped: bool, normalised: bool
) -> dict[str, NDArray[np.float32]]:
    opened = session(grouped, normalised)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {"logits": logits}), strict=True))


@st.composite
def router_logits(draw: st.DrawFn) -> NDArray[np.float32]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    tokens = draw(st.integers(1, 5))
    return (rng.standard_normal((tokens, EXPERTS)) * rng.uniform(0.1, 5)).astype(np.float32)


@settings(max_examples=50)
@given(router_logits(), st.booleans())
def test_group_limited_routing_never_leaves_the_top_groups(
    logits: NDArray[np.float32], normalised: bool
) -> None:
    selection = run(logits, True, normalised)["selection"]
    for token, scores in zip(logits, selection, strict=True):
        best = token.reshape(GROUPS, -1).max(axis=1)
        allowed = np.isin(np.arange(EXPERTS) // (EXPERTS // GROUPS), np.argsort(-best)[:KEPT])
        assert np.array_equal(np.isfinite(scores), allowed)
        assert np.array_equal(scores[allowed], token[allowed])


@settings(max_examples=50)
@given(router_logits(), st.booleans(), st.booleans())
def test_the_mixing_weights_are_the_papers(
    logits: NDArray[np.float32], grouped: bool, normalised: bool
) -> None:
    found = run(logits, grouped, normalised)
    for index, token in enumerate(logits.astype(np.float64)):
        weights = np.exp(token - token.max())
        weights /= weights.sum()
        chosen = np.argsort(-found["selection"][index])[:TOP_K]
        if normalised:
            wanted = weights / weights[chosen].sum()
        else:
            wanted = weights * (16.0 if grouped else 1.0)
            assert np.isclose(found["total"][index, 0], wanted[chosen].sum(), rtol=1e-5)
        # float32 exponentials against float64.
        np.testing.assert_allclose(found["mixing"][index], wanted, rtol=1e-4, atol=1e-7)


@settings(max_examples=50)
@given(router_logits(), st.booleans(), st.booleans())
def test_routing_equals_a_router_written_out(
    logits: NDArray[np.float32], grouped: bool, normalised: bool
) -> None:
    found = run(logits, grouped, normalised)
    size = EXPERTS // GROUPS
    for index, token in enumerate(logits.astype(np.float64)):
        groups = sorted(range(GROUPS), key=lambda g: -max(token[g * size : (g + 1) * size]))
        allowed = [e for e in range(EXPERTS) if not grouped or e // size in groups[:KEPT]]
        chosen = sorted(allowed, key=lambda e: -token[e])[:TOP_K]
        total = sum(np.exp(token - token.max()))
        weights = np.exp(token[chosen] - token.max()) / total
        if normalised:
            weights /= weights.sum()
        else:
            weights *= 16.0 if grouped else 1.0
        assert np.argsort(-found["selection"][index])[:TOP_K].tolist() == chosen
        # float32 exponentials against float64.
        np.testing.assert_allclose(found["mixing"][index][chosen], weights, rtol=1e-4, atol=1e-7)
        assert ("total" in found) != normalised
