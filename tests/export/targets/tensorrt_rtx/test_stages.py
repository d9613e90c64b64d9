"""How layers are shared out among plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.recipe import RecipeOptions
from trtcoder.export.targets.registry import find_target
from trtcoder.export.targets.tensorrt_rtx.plan import RtxPlan
from trtcoder.export.targets.tensorrt_rtx.stages import split_layers
from trtcoder.testing.random_checkpoint import FULL_CONFIG, LITE_CONFIG


@given(st.lists(st.integers(1, 100), max_size=70), st.integers(1, 300))
def test_every_layer_is_in_one_plan_that_is_as_full_as_it_can_be(
    sizes: list[int], limit: int
) -> None:
    plans = split_layers(sizes, limit)
    assert [layer for plan in plans for layer in plan] == list(range(len(sizes)))
    filled = [sum(sizes[layer] for layer in plan) for plan in plans]
    for plan, size in zip(plans, filled, strict=True):
        assert len(plan) >= 1
        assert size <= limit or len(plan) == 1
    for size, after in zip(filled, plans[1:], strict=False):
        assert size + sizes[after.start] > limit


@pytest.mark.parametrize(
    ("config", "counts", "chunk"),
    [(LITE_CONFIG, [7, 7, 7, 6], 512), (FULL_CONFIG | {"num_hidden_layers": 4}, [1] * 4, 64)],
)
def test_published_models_are_cut_into_plans_below_2_gib(
    tmp_path: Path, config: dict[str, object], counts: list[int], chunk: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    target = find_target("tensorrt-rtx")
    plan = target.plan(Checkpoint.describe(tmp_path), target.recipe(RecipeOptions(weights="int4")))
    assert isinstance(plan, RtxPlan)
    layers = [stage.layers for stage in plan.stages]
    assert [0 if each is None else len(each) for each in layers] == [*counts, 0]
    assert all(each.size < 1 << 31 for each in plan.placed.values())
    # Attention's scores of a chunk, float16, take 128 MiB at most.
    shapes = plan.compilation.shapes
    assert (shapes.slots, shapes.context, shapes.chunk) == (8, 8192, chunk)
