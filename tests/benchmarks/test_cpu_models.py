from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.cpu_models import Models, repeated, write_layers
from benchmarks.llama_gguf import gguf_types, write_gguf, write_hole
from trtcoder.bundle.folder import Bundle
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.targets.onnxruntime import DATA_FILE
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("few") / "checkpoint"
    return Checkpoint.open(write_random_checkpoint(folder, tiny_config(num_hidden_layers=3)))


def test_layers_behind_the_dense_ones_take_turns(few: Checkpoint) -> None:
    model = repeated(few, 6)
    assert model.config.num_hidden_layers == 6
    assert set(model.names()) == set(model.config.expected_tensors())
    name = "model.layers.{}.mlp.gate.weight"
    for layer, source in enumerate((1, 2, 1, 2, 1), 1):
        expected = few.read(name.format(source))
        assert np.array_equal(model.read(name.format(layer)), expected)


def test_a_file_without_data_has_the_size_of_one_with(few: Checkpoint, tmp_path: Path) -> None:
    full, hole = tmp_path / "full.gguf", tmp_path / "hole.gguf"
    write_gguf(few, full, as_stored=True)
    write_hole(few, hole)
    assert full.stat().st_size == hole.stat().st_size
    assert hole.stat().st_blocks < full.stat().st_blocks
    assert [t.name for t in gguf.GGUFReader(hole).tensors] == list(gguf_types(few))


def test_a_file_of_many_layers_has_the_data_of_the_few_where_types_agree(
    few: Checkpoint, tmp_path: Path
) -> None:
    source, out = tmp_path / "few.gguf", tmp_path / "out.gguf"
    write_gguf(few, source)
    model = repeated(few, 5)
    # One type differs from what there is.
    types = dict.fromkeys(gguf_types(model), "F32") | {"blk.0.ffn_down.weight": "Q8_0"}
    write_layers(model, source, types, out)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    assert {name: tensor.tensor_type.name for name, tensor in made.items()} == types
    norms = [stored[f"blk.{layer}.ffn_norm.weight"].data for layer in range(3)]
    assert all(
        any(np.array_equal(made[f"blk.{layer}.ffn_norm.weight"].data, norm) for norm in norms)
        for layer in range(5)
    )
    down = made["blk.0.ffn_down.weight"]
    values = gguf.quants.dequantize(down.data, down.tensor_type)
    np.testing.assert_allclose(values, stored["blk.0.ffn_down.weight"].data, atol=1e-2)


def test_engines_whose_weights_lie_alike_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.cpu_models.LITE_CONFIG", tiny_config())
    models = Models(5, tmp_path)
    engine, other = models.engine(), models.engine("int8")
    assert (engine / DATA_FILE).samefile(other / DATA_FILE)
    assert Bundle.load(other).manifest.graph.caches[0].dtype == "int8"
    # Another revision of the exporter writes other graphs over the same weights, which need no
    # checkpoint any more.
    models.tidy()
    assert models.engine() == engine
    monkeypatch.setattr("benchmarks.cpu_models.exporter_digest", lambda: "another")
    newer = models.engine()
    assert newer.name.endswith("-another")
    assert (newer / DATA_FILE).samefile(other / DATA_FILE)
    assert not engine.exists()
    assert Bundle.load(newer).manifest.model == Bundle.load(other).manifest.model
