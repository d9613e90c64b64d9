from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engines import build_engine, probe, write_checkpoint
from tests.reference.model import NumpyReference
from trtcoder.checkpoint import Checkpoint
from trtcoder.export.weights import ALIGNMENT
from trtcoder.random_checkpoint import tiny_config, tiny_grouped_config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
CONFIGS = {
    "greedy": tiny_config(),
    "greedy+norm": tiny_config(norm_topk_prob=True),
    "greedy+q_lora": tiny_config(q_lora_rank=96),
    "grouped": tiny_grouped_config(),
    "grouped+norm": tiny_grouped_config(norm_topk_prob=True, q_lora_rank=None),
    "dense": tiny_config(first_k_dense_replace=3),
    "no shared": tiny_config(n_shared_experts=None),
    "no yarn": tiny_config(rope_scaling=None),
    "mscale": tiny_config(
        rope_scaling={**tiny_config()["rope_scaling"], "mscale": 1.0, "mscale_all_dim": 0.5}
    ),
    "tied": tiny_config(tie_word_embeddings=True),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("graph") / "checkpoint", tiny_config())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("offset", [0, 8192])
def test_an_fp32_engine_computes_what_the_paper_says(
    name: str, offset: int, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", CONFIGS[name])
    engine = build_engine(checkpoint, tmp_path / "engine")
    found = probe(engine, checkpoint).run(IDS, position_offset=offset)
    positions = range(offset, offset + len(IDS))
    wanted = NumpyReference(checkpoint.folder).run(IDS, list(positions))
    # float32 sums against float64: about 1e-6 of the largest value, measured.
    for value, truth in ((found.logits, wanted.logits), (found.hidden, wanted.hidden)):
        np.testing.assert_allclose(value, truth, atol=1e-5 * np.abs(truth).max())
    if found.router_probabilities.size:
        np.testing.assert_allclose(
            found.router_probabilities, wanted.router_probabilities, atol=1e-5
        )


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_decoding_and_chunks_equal_one_prefill(
    source: Checkpoint, tmp_path: Path, chunk: int
) -> None:
    watched = probe(build_engine(source, tmp_path / "engine"), source)
    whole, parts = watched.run(IDS).logits, watched.run(IDS, chunk=chunk).logits
    np.testing.assert_allclose(parts, whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("cache", ["fp32", "int8"])
def test_the_graph_passes_the_checker_and_every_node_says_its_place(
    source: Checkpoint, tmp_path: Path, weights: str, cache: str
) -> None:
    engine = build_engine(source, tmp_path / "engine", weights, cache=cache)
    onnx.checker.check_model(str(engine.graph_path), full_check=True)
    model = onnx.load(str(engine.graph_path), load_external_data=False)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    place = re.compile(r"(layers\.\d+/(attention|mlp|moe|input_norm|post_attention_norm)"
                       r"|embed_tokens|final_norm|sampled|lm_head|batch|rotary|mask)")  # fmt: skip
    assert [name for name in names if not place.match(name)] == []
    for tensor in model.graph.initializer:
        external = {entry.key: entry.value for entry in tensor.external_data}
        if external:
            assert int(external["offset"]) % ALIGNMENT == 0
            assert external["location"] == "model.data"
        else:
            assert onnx.numpy_helper.to_array(tensor).nbytes <= 1024


def test_one_fused_node_holds_a_layers_experts(source: Checkpoint, tmp_path: Path) -> None:
    engine = build_engine(source, tmp_path / "engine", "int4")
    model = onnx.load(str(engine.graph_path), load_external_data=False)
    experts = [node for node in model.graph.node if node.op_type == "QMoE"]
    assert [node.name for node in experts] == ["layers.1/moe/experts", "layers.2/moe/experts"]
    for node in experts:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["accuracy_level"] == 4
        assert attributes["k"] == 4


def test_two_builds_are_identical(source: Checkpoint, tmp_path: Path) -> None:
    first = build_engine(source, tmp_path / "a", "int4")
    second = build_engine(source, tmp_path / "b", "int4")
    assert first.manifest == second.manifest
    for name in ["manifest.json", *first.manifest.files]:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


@pytest.mark.parametrize("symmetric", [True, False])
def test_widths_that_a_block_does_not_divide_are_padded_and_reported(
    source: Checkpoint, tmp_path: Path, symmetric: bool
) -> None:
    # The dense layer's 192 and the experts' 64 do not divide by 128.
    wide = build_engine(source, tmp_path / "wide", "int8", block_size=128, symmetric=symmetric)
    padded = wide.manifest.recipe["padded"]
    assert isinstance(padded, dict)
    assert padded["layers.*/mlp/down_proj"] == "192 padded to 256"
    assert padded["layers.*/moe/experts"] == "64 padded to 128"
    exact = probe(build_engine(source, tmp_path / "exact"), source).run(IDS).logits
    found = probe(wide, source).run(IDS).logits
    # 8 bits keep about 1 % of the largest logit; dropping or doubling the padding would not.
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_the_int8_cache_is_close_to_the_float_cache(source: Checkpoint, tmp_path: Path) -> None:
    exact = probe(build_engine(source, tmp_path / "a"), source).run(IDS).logits
    rounded = build_engine(source, tmp_path / "b", cache="int8")
    found = probe(rounded, source).run(IDS, chunk=1).logits
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.02  # 1/254 of a group's largest value, carried through three layers
    widths = {info.name: (info.dtype, info.width) for info in rounded.manifest.graph.caches}
    assert widths["cache.0"] == ("int8", 96)
    assert widths["cache_scale.0"] == ("float32", 3)
