"""The seam between a plan of weights and where they go."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.engines import write_checkpoint
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, plan_graph
from trtcoder.export.weights.data_file import layout, open_data
from trtcoder.export.weights.plan import Converted, DType, Part, Step, Weight, WeightPlan
from trtcoder.export.weights.writer import write_weights
from trtcoder.testing.random_checkpoint import tiny_config

RANKS = 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("sinks") / "checkpoint", tiny_config())


class SafetensorsSink:
    """A safetensors file for each of two ranks: layers with even numbers, and all else."""

    def __init__(self, plan: WeightPlan, folder: Path) -> None:
        self._weights = plan.weights
        self._paths = [folder / f"rank{rank}.safetensors" for rank in range(RANKS)]
        self._places: dict[str, tuple[int, int]] = {}
        self._filled: Counter[str] = Counter()
        self._lock = threading.Lock()
        for rank, path in enumerate(self._paths):
            mine = [weight for weight in plan.weights.values() if self._rank(weight) == rank]
            header, size = self._header(mine)
            path.write_bytes(header)
            with path.open("r+b") as file:
                file.truncate(len(header) + size)

    def write(self, step: Step, part: Part) -> int:
        weight = self._weights[part.weight]
        rank, offset = self._places[weight.name]
        with self._lock, self._paths[rank].open("r+b") as file:
            file.seek(offset + part.start * weight.row_nbytes)
            file.write(np.ascontiguousarray(part.value).tobytes())
        return part.value.nbytes

    def sync(self) -> None:
        pass

    def add_filled(self, rows: Mapping[str, int]) -> None:
        self._filled.update(rows)

    def finish(self) -> dict[str, str]:
        assert self._filled == {name: w.shape[0] for name, w in self._weights.items()}
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self._paths}

    @staticmethod
    def _rank(weight: Weight) -> int:
        prefix = weight.name.partition("/")[0]
        return int(prefix.removeprefix("layers.")) % 2 if prefix.startswith("layers.") else 1

    def _header(self, weights: list[Weight]) -> tuple[bytes, int]:
        entries: dict[str, dict[str, object]] = {}
        starts: dict[str, int] = {}
        end = 0
        for weight in weights:
            starts[weight.name] = end
            entries[weight.name] = {
                "dtype": weight.dtype.value,
                "shape": weight.shape,
                "data_offsets": [end, end + weight.nbytes],
            }
            end += weight.nbytes
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        for weight in weights:
            place = 8 + len(text) + starts[weight.name]
            self._places[weight.name] = self._rank(weight), place
        return len(text).to_bytes(8, "little") + text, end


@pytest.mark.parametrize("weights", ["fp32", "fp8", "int4"])
def test_the_same_plan_fills_one_data_file_or_safetensors_of_ranks(
    source: Checkpoint, tmp_path: Path, weights: str
) -> None:
    plan = plan_graph(source, preset(weights)).b.plan
    with open_data(plan, tmp_path / DATA_FILE) as sink:
        one = write_weights(plan, sink, checkpoint=source)
    several = write_weights(plan, SafetensorsSink(plan, tmp_path), checkpoint=source)
    assert (one.records, one.digests) == (several.records, several.digests)
    assert one.hashes.keys() == {DATA_FILE}
    data = (tmp_path / DATA_FILE).read_bytes()
    offsets, _ = layout(plan.weights.values())
    found: dict[str, torch.Tensor] = {}
    for name in several.hashes:
        # NumPy has neither bfloat16 nor float8.
        with safe_open(tmp_path / name, "pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert found.keys() == plan.weights.keys()
    for name, weight in plan.weights.items():
        stored = data[offsets[name] : offsets[name] + weight.nbytes]
        assert tuple(found[name].shape) == weight.shape
        assert found[name].view(torch.uint8).numpy().tobytes() == stored, name


def test_one_that_no_step_fills_is_named_and_nothing_hangs(tmp_path: Path) -> None:
    plan = WeightPlan()
    for name in ("a", "b", "c"):
        plan.declare(name, "norms", DType.FLOAT, [4])
    plan.add_step("a", (), 4, lambda: Converted([Part("a", 0, np.ones(4, np.float32))], []))
    plan.add_step("c", (), 2, lambda: Converted([Part("c", 2, np.ones(2, np.float32))], []))
    with (
        pytest.raises(BuildError, match="no step fills all of b, c"),
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
