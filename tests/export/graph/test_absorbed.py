"""W_UK and W_UV in 8 bits: what is stored, what both graphs compute with it, who refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engines import build_engine, probe, write_checkpoint
from tests.reference.model import NumpyReference
from tests.reference.weights import Float64, Weights
from tests.two_ways import WAYS, go
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError, CheckpointError
from trtcoder.export.build import BuildOptions, plan_build
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.weights.head_matrices import HeadMatrices
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
BLOCK = 32
CONFIGS = {
    "lite": tiny_config(),
    "full": tiny_grouped_config(),
    # The last block of a head is shorter, and a row no multiple of sixteen.
    "odd": tiny_config(qk_nope_head_dim=40, v_head_dim=24),
}


class RoundedHeads(Weights):
    """A checkpoint's tensors, with kv_b_proj rounded to int8 by its definition."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(folder)
        self._heads, self._nope = config["num_attention_heads"], config["qk_nope_head_dim"]

    def __getitem__(self, name: str) -> Float64:
        values = super().__getitem__(name)
        if not name.endswith("kv_b_proj.weight"):
            return values
        by_head = values.reshape(self._heads, -1, values.shape[1])
        # A sum goes over the inputs: of W_UK the rows, of W_UV the columns.
        key = rounded(by_head[:, : self._nope], axis=1)
        value = rounded(by_head[:, self._nope :], axis=2)
        return np.concatenate([key, value], 1).reshape(values.shape)


def rounded(values: Float64, axis: int) -> Float64:
    """Return whole multiples of a 127th of each block's largest magnitude, held as float16."""
    found = np.empty_like(values)
    for start in range(0, values.shape[axis], BLOCK):
        place = tuple(
            slice(start, start + BLOCK) if each == axis else slice(None) for each in range(3)
        )
        largest = np.abs(values[place]).max(axis, keepdims=True)
        scale = (largest / 127).astype(np.float16).astype(np.float64)
        found[place] = np.clip(np.rint(values[place] / scale), -128, 127) * scale
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("absorbed")
    return {name: write_checkpoint(folder / name, config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONFIGS)
def test_both_graphs_compute_with_the_rounded_matrices(
    sources: dict[str, Checkpoint],
    name: str,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = sources[name]
    engine = build_engine(source, tmp_path / "engine", absorbed="int8")
    go(way, monkeypatch)
    found = probe(engine, source).run(IDS)
    weights = RoundedHeads(source.folder, CONFIGS[name])
    wanted = NumpyReference(source.folder, weights).run(IDS)
    exact = NumpyReference(source.folder).run(IDS)
    # float32 sums against float64, as for an engine with the checkpoint's own values.
    tolerance = 1e-5 * np.abs(wanted.logits).max()
    np.testing.assert_allclose(found.logits, wanted.logits, atol=tolerance)
    assert np.abs(exact.logits - wanted.logits).max() > 10 * tolerance


def test_the_engine_says_so_and_takes_half_the_bytes(
    sources: dict[str, Checkpoint], tmp_path: Path
) -> None:
    found = {
        kind: build_engine(sources["lite"], tmp_path / kind, "int4", absorbed=kind)
        for kind in ("exact", "int8")
    }
    schemes: dict[str, Any] = {
        kind: engine.manifest.recipe["schemes"] for kind, engine in found.items()
    }
    assert schemes["int8"] == {**schemes["exact"], "absorbed": "int8 b32"}
    config, sizes = CONFIGS["lite"], {}
    for kind in found:
        sizes[kind] = plan_build(sources["lite"].folder, BuildOptions(absorbed=kind)).smallest
    nope, latent, value = (
        config[key] for key in ("qk_nope_head_dim", "kv_lora_rank", "v_head_dim")
    )
    heads = config["num_hidden_layers"] * config["num_attention_heads"]
    # A byte for a code, and two for a scale.
    codes, scales = latent * (nope + value), latent * -(-nope // BLOCK) + value * (latent // BLOCK)
    assert sizes["int8"].classes["absorbed"] == heads * (codes + 2 * scales)
    assert sizes["exact"].classes["absorbed"] == heads * 2 * codes
    assert sizes["int8"].values == sizes["exact"].values


def test_a_tokens_bits_do_not_depend_on_how_it_comes(
    sources: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go("kernels", monkeypatch)
    engine = build_engine(sources["odd"], tmp_path / "engine", "int4", absorbed="int8")
    watched = probe(engine, sources["odd"])
    whole = watched.run(IDS).logits
    for chunk in (1, 7, 20):
        np.testing.assert_array_equal(watched.run(IDS, chunk=chunk).logits, whole)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_gives_no_engine(tmp_path: Path, value: float) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", CONFIGS["lite"])
    stored = source.tensors["model.layers.1.self_attn.kv_b_proj.weight"]
    with stored.file.path.open("r+b") as file:
        file.seek(stored.offset + 2)
        file.write(np.array(value, np.float32).reshape(1).view(np.uint16)[1].tobytes())
    with pytest.raises(CheckpointError, match=r"kv_b_proj.weight\[0, 1\] is -?(nan|inf)"):
        build_engine(source, tmp_path / "engine", "int4", absorbed="int8")


class Scaled:
    """A quantizer that has a scale for what the heads make."""

    def __init__(self, scale: NDArray[np.float32]) -> None:
        self._scale = scale

    def input_scale(self, activation: str) -> NDArray[np.float32] | None:
        return self._scale if activation == "heads" else None


def test_a_scale_of_the_outputs_goes_in_and_out(sources: dict[str, Checkpoint]) -> None:
    source = sources["lite"]
    plan = OnnxRuntime().plan(source, preset("int4", absorbed="int8")).weights
    matrix = plan.matrices["layers.1/attention/absorb_v/weight"].source
    heads = CONFIGS["lite"]["num_attention_heads"]
    scale = np.random.default_rng(0).uniform(0.5, 2, matrix.rows).astype(np.float32)
    form = HeadMatrices(matrix, heads, transposed=True, makes="heads")
    quantizer: Any = Scaled(scale)
    stored = form.read(quantizer)
    rows = matrix.read().reshape(heads, -1, matrix.width)
    np.testing.assert_allclose(
        stored, (rows / scale.reshape(heads, -1, 1)).transpose(0, 2, 1), rtol=1e-6
    )
    np.testing.assert_allclose(form.restored(quantizer, stored), matrix.read(), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"provider": "cuda"}, "--provider cuda"),
        ({"target": "tensorrt-rtx"}, "--target tensorrt-rtx"),
        ({"target": "tensorrt-llm"}, "--target tensorrt-llm"),
        ({"target": "compressed-tensors"}, "--target compressed-tensors"),
    ],
)
def test_who_cannot_have_it_refuses_it_by_name(options: dict[str, str], where: str) -> None:
    with pytest.raises(BuildError, match=rf"--absorbed int8: .* not for {where}; leave it out"):
        BuildOptions(**options, absorbed="int8").request()  # type: ignore[arg-type]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(BuildError, match="absorbed: 'int4' is unknown; use one of exact, int8"):
        preset("int4", absorbed="int4")
