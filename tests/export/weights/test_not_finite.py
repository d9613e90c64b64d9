"""A checkpoint with a value that is not finite gives no engine, whatever stores it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.engines import write_checkpoint
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cli import main
from trtcoder.errors import BuildError, CheckpointError
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.export.weights.data_file import open_data
from trtcoder.export.weights.plan import Converted, DType, Part, WeightPlan
from trtcoder.export.weights.writer import write_weights
from trtcoder.testing.random_checkpoint import tiny_grouped_config

LAYER = "model.layers.1"
# Of each class: looked up, multiplied, absorbed, routed by, normalised with.
PLACES: list[tuple[str, tuple[int, ...]]] = [
    ("model.embed_tokens.weight", (300, 7)),
    ("lm_head.weight", (511, 0)),
    (f"{LAYER}.self_attn.o_proj.weight", (3, 100)),
    (f"{LAYER}.self_attn.kv_a_proj_with_mqa.weight", (95, 127)),
    (f"{LAYER}.self_attn.kv_b_proj.weight", (60, 1)),
    (f"{LAYER}.mlp.gate.weight", (15, 64)),
    (f"{LAYER}.mlp.experts.3.up_proj.weight", (20, 12)),
    (f"{LAYER}.mlp.shared_experts.down_proj.weight", (1, 1)),
    ("model.layers.0.mlp.gate_proj.weight", (191, 1)),
    (f"{LAYER}.input_layernorm.weight", (9,)),
    (f"{LAYER}.self_attn.kv_a_layernorm.weight", (63,)),
    ("model.norm.weight", (0,)),
]
BITS = {"nan": 0x7FC0, "-nan": 0xFFC1, "inf": 0x7F80, "-inf": 0xFF80}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("nan") / "checkpoint", tiny_grouped_config())


class Spoiled:
    """One value of a tensor replaced, until the block is left."""

    def __init__(self, checkpoint: Checkpoint, name: str, place: tuple[int, ...], bits: int):
        stored = checkpoint.tensors[name]
        index = int(np.ravel_multi_index(place, stored.shape))
        self._path, self._offset = stored.file.path, stored.offset + 2 * index
        self._bits = bits.to_bytes(2, "little")

    def __enter__(self) -> None:
        self._before = self._path.read_bytes()[self._offset : self._offset + 2]
        self._write(self._bits)

    def __exit__(self, *error: object) -> None:
        self._write(self._before)

    def _write(self, data: bytes) -> None:
        with self._path.open("r+b") as file:
            file.seek(self._offset)
            file.write(data)


@pytest.mark.parametrize("weights", ["fp32", "fp8", "int8", "int4"])
@pytest.mark.parametrize(("name", "place"), PLACES)
def test_it_is_refused_in_every_precision_and_class_with_name_and_position(
    checkpoint: Checkpoint, tmp_path: Path, weights: str, name: str, place: tuple[int, ...]
) -> None:
    spelled = ", ".join(map(str, place))
    bits = BITS[sorted(BITS)[sum(place) % len(BITS)]]
    plan = OnnxRuntime().plan(checkpoint, preset(weights))
    with (
        Spoiled(checkpoint, name, place, bits),
        pytest.raises(CheckpointError, match=rf"{name}\[{spelled}\] is -?(nan|inf)"),
    ):
        write_engine(plan, tmp_path)


@pytest.mark.parametrize("method", ["rtn", "clip", "awq", "gptq"])
def test_no_method_and_no_text_lets_it_pass(
    checkpoint: Checkpoint, tmp_path: Path, method: str
) -> None:
    # Neither held-out nor calibration text has this token.
    name, place = "model.embed_tokens.weight", (510, 7)
    with Spoiled(checkpoint, name, place, BITS["nan"]):
        arguments = ["build", checkpoint.folder, "--out", tmp_path / "engine", "--method", method,
                     "--tokens", "100", "--calibration-tokens", "200"]  # fmt: skip
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert f"{name}[510, 7] is nan" in result.output
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType.FLOAT, np.float32(np.inf)),
        (DType.FLOAT16, np.float16(np.nan)),
        (DType.BFLOAT16, np.uint16(0xFF80)),
        (DType.FLOAT8, np.uint8(0x7F)),
    ],
)
def test_a_step_that_makes_one_of_finite_values_is_refused(
    tmp_path: Path, dtype: DType, value: np.generic
) -> None:
    plan = WeightPlan()
    plan.declare("scales", "norms", dtype, [4, 3])
    made = np.zeros((2, 3), dtype.numpy)
    made[1, 2] = value
    for start in (0, 2):
        part = Part("scales", start, made if start else np.zeros_like(made))
        plan.add_step(f"step{start}", (), 6, partial(Converted, [part], []), [part.rows])
    with (
        pytest.raises(BuildError, match=r"scales\[3, 2\]: step2 makes a value that is not finite"),
        open_data(plan, tmp_path / DATA_FILE) as sink,
    ):
        write_weights(plan, sink)
