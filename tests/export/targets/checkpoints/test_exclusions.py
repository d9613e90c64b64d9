"""Which modules of the published models stay in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest

from trtcoder.export.targets.checkpoints.deepseek_v2 import linear_shapes
from trtcoder.export.targets.checkpoints.exclusions import excluded, role, roles, summary
from trtcoder.export.targets.checkpoints.form import Form
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import FULL_CONFIG, LITE_CONFIG

ATTENTION = {"model.layers.*.self_attn.kv_a_proj_with_mqa", "model.layers.*.self_attn.kv_b_proj"}
COMMON = {"lm_head", "model.layers.*.mlp.gate", *ATTENTION}
DENSE = {f"model.layers.*.mlp.{role}_proj" for role in ("gate", "up", "down")}
QUERIES = {"model.layers.*.self_attn.q_a_proj"}


@pytest.mark.parametrize(
    ("config", "form", "group", "expected"),
    [
        (LITE_CONFIG, Form.FP8_BLOCK, 0, COMMON | DENSE),
        (LITE_CONFIG, Form.FP8_TENSOR, 0, COMMON),
        (LITE_CONFIG, Form.NVFP4, 0, COMMON | DENSE),
        (LITE_CONFIG, Form.PACKED, 128, COMMON | DENSE),
        (LITE_CONFIG, Form.PACKED, 32, COMMON | DENSE),
        (FULL_CONFIG, Form.FP8_BLOCK, 0, COMMON | QUERIES),
        (FULL_CONFIG, Form.FP8_TENSOR, 0, COMMON | QUERIES),
        (FULL_CONFIG, Form.NVFP4, 0, COMMON | QUERIES),
        (FULL_CONFIG, Form.PACKED, 128, COMMON | QUERIES),
    ],
)
def test_what_stays_of_a_published_model(
    config: dict[str, Any], form: Form, group: int, expected: set[str]
) -> None:
    shapes = linear_shapes(DeepseekV2Config.from_dict(config))
    found = excluded(shapes, form, group)
    assert set(roles(found)) == expected
    assert all(found.values())
    # By full names: every layer of a role, and no prefix that would take others along.
    assert set(found) == {module for module in shapes if role(module) in expected}


def test_an_mlp_is_stored_in_one_way() -> None:
    shapes = {
        "a.gate_proj": (320, 256),
        "a.up_proj": (320, 256),
        "a.down_proj": (256, 320),
    }
    # 320 rows are five times 64, which packed int4 takes; 320 columns are not.
    found = excluded(shapes, Form.PACKED, 32)
    assert list(found) == list(shapes)
    assert found["a.gate_proj"].startswith("down_proj of the same MLP stays")
    assert summary(found).keys() == shapes.keys()
