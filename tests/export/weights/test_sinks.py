"""The seam between a plan of weights and where they go."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tests.engines import write_checkpoint
from tests.safetensors_sink import SafetensorsSink
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, OnnxRuntime
from trtcoder.export.weights.data_file import layout, open_data
from trtcoder.export.weights.plan import Converted, DType, Part, Rows, Step, WeightPlan
from trtcoder.export.weights.writer import write_weights
from trtcoder.testing.random_checkpoint import tiny_config


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("sinks") / "checkpoint", tiny_config())


def file_of(name: str) -> str:
    """Return the file of two ranks: layers with even numbers, and all else."""
    prefix = name.partition("/")[0]
    rank = int(prefix.removeprefix("layers.")) % 2 if prefix.startswith("layers.") else 1
    return f"rank{rank}.safetensors"


@pytest.mark.parametrize("weights", ["fp32", "fp8", "int4"])
def test_the_same_plan_fills_one_data_file_or_safetensors_of_ranks(
    source: Checkpoint, tmp_path: Path, weights: str
) -> None:
    plan = OnnxRuntime().plan(source, preset(weights)).weights
    with open_data(plan, tmp_path / DATA_FILE) as sink:
        one = write_weights(plan, sink, checkpoint=source)
    ranks = SafetensorsSink(plan, tmp_path, {name: file_of(name) for name in plan.declared})
    several = write_weights(plan, ranks, checkpoint=source)
    assert (one.records, one.digests) == (several.records, several.digests)
    assert one.hashes.keys() == {DATA_FILE}
    data = (tmp_path / DATA_FILE).read_bytes()
    offsets, _ = layout(plan.declared.values())
    found: dict[str, torch.Tensor] = {}
    for name in several.hashes:
        # NumPy has neither bfloat16 nor float8.
        with safe_open(tmp_path / name, "pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert found.keys() == plan.declared.keys()
    for name, weight in plan.declared.items():
        stored = data[offsets[name] : offsets[name] + weight.nbytes]
        assert tuple(found[name].shape) == weight.shape
        assert found[name].view(torch.uint8).numpy().tobytes() == stored, name


def toy_plan(*fills: tuple[str, int, int], made: Sequence[Part] | None = None) -> WeightPlan:
    """Return a plan of three weights of four rows with a step for each of ``fills``."""
    plan = WeightPlan()
    for name in ("a", "b", "c"):
        plan.declare(name, "norms", DType.FLOAT, [4])
    for weight, start, stop in fills:
        part = Part(weight, start, np.ones(stop - start, np.float32))
        parts = [part] if made is None else list(made)
        plan.add_step(f"{weight}[{start}:{stop}]", (), 4, partial(Converted, parts, []),
                      [part.rows])  # fmt: skip
    return plan


@pytest.mark.parametrize(
    ("fills", "message"),
    [
        ([("a", 0, 4), ("c", 2, 4)], "no step fills all of b, c$"),
        ([("a", 0, 4), ("b", 0, 4), ("c", 0, 3)], "no step fills all of c$"),
        ([("a", 0, 2), ("a", 3, 4), ("b", 0, 4), ("c", 0, 4)], "no step fills all of a$"),
        ([("a", 0, 4), ("b", 0, 3), ("b", 2, 4), ("c", 0, 4)], "several steps, .* fill b$"),
        ([("a", 0, 4), ("b", 0, 5), ("c", 0, 4)], "rows that are not declared, fill b$"),
        ([("a", 0, 4), ("b", 0, 4), ("c", 0, 4), ("d", 0, 1)], "nothing declares, d$"),
        ([("a", 0, 4), ("b", 0, 4), ("c", 0, 4), ("a", 0, 4)], r"fill a; .* the name a\[0:4\]$"),
    ],
)
def test_a_plan_that_its_steps_do_not_fill_is_refused_before_anything_is_converted(
    tmp_path: Path, fills: list[tuple[str, int, int]], message: str
) -> None:
    plan = toy_plan(*fills)
    ran: list[Step] = []
    with (
        pytest.raises(BuildError, match=message),
        open_data(plan, tmp_path / DATA_FILE) as sink,
    ):
        write_weights(plan, sink, on_step=ran.append)
    assert ran == []


@given(
    rows=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 5), max_size=8),
    data=st.data(),
)
def test_a_plan_is_complete_only_if_each_row_is_filled_once(
    rows: list[int], cuts: list[int], data: st.DataObject
) -> None:
    plan = WeightPlan()
    steps = []
    for index, count in enumerate(rows):
        plan.declare(f"w{index}", "norms", DType.FLOAT, [count])
        ends = sorted({0, count, *(cut for cut in cuts if cut < count)})
        steps += [(f"w{index}", *pair) for pair in itertools.pairwise(ends)]
    chosen = data.draw(st.lists(st.sampled_from(steps), max_size=2 * len(steps)))
    chosen = data.draw(st.sampled_from([chosen, data.draw(st.permutations(steps))]))
    for number, fill in enumerate(chosen):
        plan.add_step(str(number), (), 0, lambda: Converted([], []), [Rows(*fill)])
    if sorted(chosen) == sorted(steps):
        plan.check()
    else:
        with pytest.raises(BuildError, match="fill"):
            plan.check()


@pytest.mark.parametrize(
    "made",
    [
        [],
        [Part("a", 0, np.ones(3, np.float32))],
        [Part("a", 1, np.ones(4, np.float32))],
        [Part("b", 0, np.ones(4, np.float32))],
        [Part("a", 0, np.ones(4, np.float32))] * 2,
        [Part("a", 0, np.ones(4, np.float64))],
        [Part("a", 0, np.ones((4, 1), np.float32))],
    ],
)
def test_a_step_that_makes_what_it_does_not_declare_is_refused(
    tmp_path: Path, made: list[Part]
) -> None:
    plan = toy_plan(("a", 0, 4), ("b", 0, 4), ("c", 0, 4), made=made)
    with (
        pytest.raises(BuildError, match=r"made"),
        open_data(plan, tmp_path / DATA_FILE) as sink,
    ):
        write_weights(plan, sink)


def test_a_name_is_declared_once() -> None:
    plan = WeightPlan()
    plan.declare("a", "norms", DType.FLOAT, [4])
    with pytest.raises(BuildError, match="a: declared twice"):
        plan.declare("a", "norms", DType.FLOAT, [4])


def test_the_weights_know_no_onnx() -> None:
    script = (
        "import importlib, pkgutil, sys\n"
        "import trtcoder.export.weights as room\n"
        "for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sorted(n for n in sys.modules if n.partition('.')[0].startswith('onnx')))\n"
        "print(sorted(n for n in sys.modules if n.startswith('trtcoder.export.')))"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    packages, modules = run.stdout.splitlines()
    assert packages == "[]"
    assert "trtcoder.export.weights.writer" in modules
    assert "trtcoder.export.graph" not in modules
