from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.engines import build_engine, plain_session, probe, write_checkpoint
from tests.reference.model import NumpyReference
from trtcoder.bundle.folder import Bundle
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.inputs import CACHE_BLOCK
from trtcoder.export.weights.data_file import ALIGNMENT
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
# From 0, far beyond the original context, and with a gap that only YaRN's slow pairs tell apart.
POSITIONS = {
    "from 0": np.arange(50),
    "from 8192": np.arange(8192, 8242),
    "with a gap": np.arange(50) + np.where(np.arange(50) < 16, 0, 100_000),
}
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
    # The inner norms keep an epsilon of their own.
    "epsilon": tiny_config(rms_norm_eps=1e-3, q_lora_rank=96),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("graph") / "checkpoint", tiny_config())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
def test_an_fp32_engine_computes_what_the_paper_says(
    name: str, positions: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", CONFIGS[name])
    engine = build_engine(checkpoint, tmp_path / "engine")
    found = probe(engine, checkpoint).run(IDS, positions=positions)
    wanted = NumpyReference(checkpoint.folder).run(IDS, positions.tolist())
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


@pytest.mark.parametrize("weights", ["fp32", "fp8", "int8", "int4"])
@pytest.mark.parametrize("cache", ["fp32", "int8", "fp8"])
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


@pytest.mark.parametrize("config", [tiny_config(), tiny_grouped_config()], ids=["lite", "full"])
def test_an_fp32_engine_computes_what_transformers_computes(
    config: dict[str, object], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = write_checkpoint(tmp_path / "checkpoint", config)
    watched = probe(build_engine(checkpoint, tmp_path / "engine"), checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    for positions in POSITIONS.values():
        where = torch.from_numpy(positions)[None]
        with torch.no_grad():
            wanted = model(torch.tensor(IDS)[None], position_ids=where).logits[0].numpy()
        found = watched.run(IDS, positions=positions).logits
        # Both in float32, sums in another order: about 1e-6 of the largest logit, measured.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


LENGTHS = (37, 5, 20)
# Rows of the block table: out of order, interleaved, padded; blocks 4 and 7 belong to nobody.
# Block 0 is a padded sequence's own: padding that is taken for it would move it.
BLOCKS = [[6, 1, 3], [2, -1, -1], [0, 5, -1]]
POOL = 8


def run_packed(
    engine: Bundle, tokens: list[list[int]], ranges: list[list[range]], order: int
) -> list[dict[int, np.ndarray]]:
    """Return each sequence's logits by position; a step runs one range of every sequence.

    The tokens of a step are shuffled, and the cache starts with what others left in it.
    """
    session = plain_session(engine)
    rng = np.random.default_rng(order)
    caches = {}
    for cache in engine.manifest.graph.caches:
        left = rng.uniform(1, 50, (POOL * CACHE_BLOCK, cache.width))
        caches[cache.name] = left.astype(cache.dtype)
    found: list[dict[int, np.ndarray]] = [{} for _ in tokens]
    for step in ranges:
        rows = [(sequence, position) for sequence, part in enumerate(step) for position in part]
        rows = [rows[index] for index in rng.permutation(len(rows))]
        sequences, positions = np.array(rows, np.int64).T.copy()
        slots = [BLOCKS[s][p // CACHE_BLOCK] * CACHE_BLOCK + p % CACHE_BLOCK for s, p in rows]
        names = ["logits", *(f"{name}.out" for name in caches)]
        logits, *written = session.run(
            names,
            {
                "input_ids": np.array([tokens[s][p] for s, p in rows], np.int64),
                "positions": positions,
                "slots": np.array(slots, np.int64),
                "sequences": sequences,
                "block_table": np.array(BLOCKS, np.int64),
                "sample_rows": np.arange(len(rows))[::-1].copy(),
                **caches,
            },
        )
        caches = dict(zip(caches, written, strict=True))
        for (sequence, position), row in zip(rows[::-1], logits, strict=True):
            found[sequence][position] = row
    return found


@pytest.mark.parametrize("config", [tiny_config(), tiny_grouped_config()], ids=["lite", "full"])
@pytest.mark.parametrize("cache", ["fp32", "int8", "fp8"])
def test_packed_sequences_get_the_logits_they_get_alone(
    config: dict[str, object], cache: str, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config)
    engine = build_engine(checkpoint, tmp_path / "engine", cache=cache)
    rng = np.random.default_rng(3)
    tokens = [rng.integers(0, 256, length).tolist() for length in LENGTHS]
    alone = [probe(engine, checkpoint).run(part).logits for part in tokens]
    at_once = [[range(length) for length in LENGTHS]]
    # One sequence decodes while another's prompt arrives in chunks, and one joins later.
    mixed = [[range(20), range(3), range(0)], [range(20, 36), range(3, 4), range(11)],
             [range(36, 37), range(4, 5), range(11, 20)]]  # fmt: skip
    # A float32 sum differs in its last bits, which may turn a tie of the cache by one level: 1/254
    # of a group's largest value in int8, 1/16 of the value itself in float8.
    allowed = {"fp32": 1e-5, "int8": 1e-2, "fp8": 5e-2}[cache]
    for order, ranges in enumerate((at_once, mixed)):
        found = run_packed(engine, tokens, ranges, order)
        for ours, wanted in zip(found, alone, strict=True):
            assert sorted(ours) == list(range(len(wanted)))
            stacked = np.stack([ours[position] for position in range(len(wanted))])
            np.testing.assert_allclose(stacked, wanted, atol=allowed * np.abs(wanted).max())
