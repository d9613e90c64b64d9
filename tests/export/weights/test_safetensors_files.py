"""Shards of safetensors: which tensors share one, where they lie, and what is left after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open

from trtcoder.export.weights.plan import Converted, DType, Part, Weight, WeightPlan
from trtcoder.export.weights.safetensors_files import index, open_files, place, shard
from trtcoder.export.weights.writer import write_weights

TYPES = st.sampled_from(list(DType))
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@given(
    st.lists(st.tuples(st.integers(0, 5), TYPES, SHAPES), min_size=1, max_size=12),
    st.integers(1, 2000),
)
def test_a_module_is_in_one_shard_and_each_value_is_aligned(
    given_weights: list[tuple[int, DType, list[int]]], limit: int
) -> None:
    weights = [
        Weight(f"m.{module}.w{number}", "norms", dtype, tuple(shape))
        for number, (module, dtype, shape) in enumerate(given_weights)
    ]
    files = shard(weights, limit)
    modules: dict[str, set[str]] = {}
    for name, file in files.items():
        modules.setdefault(name.rpartition(".")[0], set()).add(file)
    assert all(len(found) == 1 for found in modules.values())
    for file in set(files.values()):
        held = [weight for weight in weights if files[weight.name] == file]
        sizes = sum(weight.nbytes for weight in held)
        assert sizes <= limit or len({weight.name.rpartition(".")[0] for weight in held}) == 1
        placed = place(held)
        # No gaps: each begins where another ends.
        assert sum(length for _, length in placed.gaps()) == 0
        for weight in held:
            assert placed.offsets[weight.name] % weight.dtype.numpy.itemsize == 0


def plan_of(values: dict[str, NDArray[Any]], dtypes: dict[str, DType]) -> WeightPlan:
    plan = WeightPlan()
    for name, value in values.items():
        weight = plan.declare(name, "norms", dtypes[name], value.shape)

        def produce(name: str = name) -> Converted:
            return Converted([Part(name, 0, values[name])], [])

        plan.add_step(name, (), value.size, produce, [weight.rows()])
    return plan


@pytest.fixture
def plan() -> WeightPlan:
    values: dict[str, NDArray[Any]] = {
        "a.weight": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "a.scale": np.array([1.5], np.float32),
        "b.shape": np.array([2, 3], np.int64),
        "b.packed": np.array([[-1, 7]], np.int32),
    }
    types = [DType.FLOAT8, DType.FLOAT, DType.INT64, DType.INT32]
    return plan_of(values, dict(zip(values, types, strict=True)))


def test_others_read_what_was_written(plan: WeightPlan, tmp_path: Path) -> None:
    files = shard(plan.declared.values(), 12)
    assert len(set(files.values())) == 2
    with open_files(plan, tmp_path, files, {"a.scale"}) as sink:
        written = write_weights(plan, sink)
    assert set(written.hashes) == set(files.values())
    listed = json.loads(index(plan, files))
    assert listed["metadata"]["total_size"] == 6 + 4 + 16 + 8
    found: dict[str, torch.Tensor] = {}
    for name, file in listed["weight_map"].items():
        with safe_open(tmp_path / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            found[name] = opened.get_tensor(name)
    assert found["a.scale"].shape == ()
    assert found["a.scale"].item() == 1.5
    assert found["a.weight"].dtype == torch.float8_e4m3fn
    assert found["b.packed"].tolist() == [[-1, 7]]
    assert found["b.shape"].tolist() == [2, 3]


def test_what_another_plan_left_is_written_over(plan: WeightPlan, tmp_path: Path) -> None:
    files = shard(plan.declared.values())
    (name,) = set(files.values())
    with open_files(plan, tmp_path, files) as sink:
        write_weights(plan, sink)
    fresh = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"\xee" * 3 * len(fresh))
    with open_files(plan, tmp_path, files) as sink:
        hashes = write_weights(plan, sink).hashes
    assert (tmp_path / name).read_bytes() == fresh
    assert len(hashes[name]) == 64
