"""The two graphs of an engine: one in our operators and one in ONNX Runtime's, over one file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.engines import build_engine, probe, write_checkpoint
from tests.export.graph.test_deepseek_v2 import LENGTHS, run_packed
from tests.two_ways import WAYS, go
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.graph_probe import EngineTrace
from trtcoder.export.parity.logits import LOGIT_TIE, kl_divergence
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.export.weights.convert import convert
from trtcoder.plugins.library import OPERATORS
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
CONFIGS = {
    "greedy": tiny_config(),
    "greedy+norm": tiny_config(norm_topk_prob=True),
    "q_lora": tiny_config(q_lora_rank=96),
    "grouped": tiny_grouped_config(),
    "grouped+norm": tiny_grouped_config(norm_topk_prob=True, q_lora_rank=None),
    "dense": tiny_config(first_k_dense_replace=3),
    "no shared": tiny_config(n_shared_experts=None),
    "tied": tiny_config(tie_word_embeddings=True),
    # Neither sixteen rows nor a block divides these widths.
    "odd": tiny_config(intermediate_size=200, moe_intermediate_size=72, vocab_size=523),
}
# Weights, block size, whether symmetric.
FORMS = [
    *(
        (weights, block, symmetric)
        for weights in ("int4", "int8")
        for block in (32, 64, 128)
        for symmetric in (True, False)
    ),
    ("fp32", 32, True),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("two")
    return {name: write_checkpoint(folder / name, config) for name, config in CONFIGS.items()}


def run_both(
    engine: Bundle, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> tuple[EngineTrace, EngineTrace]:
    """Return what our kernels compute, and what ONNX Runtime's own operators do."""
    found = []
    for way in WAYS:
        with monkeypatch.context() as patch:
            go(way, patch)
            found.append(probe(engine, source).run(IDS))
    return found[0], found[1]


def assert_agree(found: EngineTrace, wanted: EngineTrace, kl: float) -> None:
    assert float(kl_divergence(wanted.logits, found.logits).mean()) <= kl
    rows = np.arange(len(IDS))
    first, second = wanted.logits.argmax(-1), found.logits.argmax(-1)
    # Where the most probable token is another one, the two were as good as equal.
    gap = wanted.logits[rows, first] - wanted.logits[rows, second]
    assert (gap <= max(LOGIT_TIE, 0.05) * np.abs(wanted.logits).max(-1)).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_both_graphs_compute_the_same(
    sources: dict[str, Checkpoint], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(sources[name], tmp_path / "engine", "int4")
    found, wanted = run_both(engine, sources[name], monkeypatch)
    # Both round activations to int8, block by block. Where a float32 sum turns a tie of that the
    # other way, random grouped experts, whose outputs count 16 times, take up to 5e-5 from it.
    assert_agree(found, wanted, 1e-4)
    if wanted.router_probabilities.size:
        probabilities = found.router_probabilities, wanted.router_probabilities
        np.testing.assert_allclose(*probabilities, atol=0.02)


@pytest.mark.parametrize("name", CONFIGS)
def test_in_float32_both_graphs_differ_by_the_order_of_sums(
    sources: dict[str, Checkpoint], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(sources[name], tmp_path / "engine", "fp32")
    found, wanted = run_both(engine, sources[name], monkeypatch)
    assert_agree(found, wanted, 1e-9)
    scale = np.abs(wanted.logits).max()
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5 * scale)


@pytest.mark.parametrize(("weights", "block", "symmetric"), FORMS)
def test_both_graphs_read_every_form_of_weights(
    sources: dict[str, Checkpoint],
    weights: str,
    block: int,
    symmetric: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = sources["odd"]
    engine = build_engine(
        source, tmp_path / "engine", weights, block_size=block, symmetric=symmetric
    )
    assert_agree(*run_both(engine, source, monkeypatch), kl=1e-4)


@pytest.mark.parametrize("cache", ["fp32", "int8", "fp8"])
def test_both_graphs_keep_every_kind_of_cache(
    sources: dict[str, Checkpoint], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources["greedy"]
    engine = build_engine(source, tmp_path / "engine", "int4", cache=cache)
    assert_agree(*run_both(engine, source, monkeypatch), kl=1e-4)


@pytest.mark.parametrize("name", ["greedy", "grouped"])
@pytest.mark.parametrize("cache", ["fp32", "int8", "fp8"])
@pytest.mark.parametrize("weights", ["int4", "fp32"])
def test_on_our_kernels_a_tokens_bits_depend_on_its_own_sequence_alone(
    sources: dict[str, Checkpoint],
    name: str,
    cache: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go("kernels", monkeypatch)
    source = sources[name]
    engine = build_engine(source, tmp_path / "engine", weights, cache=cache)
    rng = np.random.default_rng(3)
    tokens = [rng.integers(0, 256, length).tolist() for length in LENGTHS]
    alone = [probe(engine, source).run(part).logits for part in tokens]
    by_token = [probe(engine, source).run(part, chunk=1).logits for part in tokens]
    at_once = [[range(length) for length in LENGTHS]]
    mixed = [[range(20), range(3), range(0)], [range(20, 36), range(3, 4), range(11)],
             [range(36, 37), range(4, 5), range(11, 20)]]  # fmt: skip
    for order, ranges in enumerate((at_once, mixed)):
        found = run_packed(engine, tokens, ranges, order)
        for ours, whole, decoded in zip(found, alone, by_token, strict=True):
            stacked = np.stack([ours[position] for position in range(len(whole))])
            np.testing.assert_array_equal(stacked, whole)
            np.testing.assert_array_equal(decoded, whole)


def external(path: Path) -> dict[str, tuple[str, str, str]]:
    """Return where a graph's weights lie: file, offset and length by name."""
    found = {}
    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            found[tensor.name] = (place["location"], place["offset"], place["length"])
    return found


@pytest.mark.parametrize("weights", ["int4", "fp32"])
def test_both_graphs_read_the_same_bytes(
    sources: dict[str, Checkpoint], weights: str, tmp_path: Path
) -> None:
    engine = build_engine(sources["greedy"], tmp_path / "engine", weights)
    stock, ours = (external(engine.path(name)) for name in ("model.onnx", "kernels.onnx"))
    assert ours == stock
    assert [name for name in engine.manifest.files if name.endswith(".data")] == [DATA_FILE]


@pytest.mark.parametrize("weights", ["int4", "fp32"])
def test_our_graph_has_no_products_of_onnxruntime(
    sources: dict[str, Checkpoint], weights: str, tmp_path: Path
) -> None:
    engine = build_engine(sources["greedy"], tmp_path / "engine", weights)
    model = onnx.load(str(engine.path("kernels.onnx")), load_external_data=False)
    ours = {node.op_type for node in model.graph.node if node.domain == "trtcoder"}
    assert ours == {"RmsNorm", "Linear", "Mlp", "Experts", "LatentAttention"}
    assert engine.manifest.onnx_parts.kernels is not None
    assert engine.manifest.onnx_parts.kernels.whole
    assert engine.manifest.onnx_parts.kernels.operators == OPERATORS
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


STOCK_PRODUCTS: list[tuple[str, dict[str, Any]]] = [
    ("fp8", {}),
    ("fp8", {"cache": "int8"}),
    ("int4", {"accuracy_level": 0}),
    ("int4", {"block_size": 16}),
]


@pytest.mark.parametrize(("weights", "options"), STOCK_PRODUCTS)
def test_an_engine_whose_products_the_kernels_do_not_make_has_their_attention(
    sources: dict[str, Checkpoint],
    weights: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = build_engine(sources["greedy"], tmp_path / "engine", weights, **options)
    model = onnx.load(str(engine.path("kernels.onnx")), load_external_data=False)
    ours = {node.op_type for node in model.graph.node if node.domain == "trtcoder"}
    assert ours == {"LatentAttention", "RmsNorm"}
    kernels = engine.manifest.onnx_parts.kernels
    assert kernels is not None
    assert not kernels.whole
    assert_agree(*run_both(engine, sources["greedy"], monkeypatch), kl=1e-4)


def stored_rows(engine: Bundle) -> dict[str, NDArray[Any]]:
    """Return the codes, scales and zero points that ONNX Runtime's operators are given."""
    model = onnx.load(str(engine.graph_path), load_external_data=False)
    constant = {tensor.name for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if set(node.input) <= constant:
            constant |= set(node.output)
            nodes.append(node)
    outputs = [name for node in nodes for name in node.output if name.endswith("/rows/shaped")]
    wanted = [onnx.ValueInfoProto(name=name) for name in outputs]
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "rows", [], wanted, tensors)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(engine.folder)
    )
    session = onnxruntime.InferenceSession(part.SerializeToString(), options)
    values = session.run(outputs, {})
    return {
        name.removesuffix("/rows/shaped"): value
        for name, value in zip(outputs, values, strict=True)
    }


@pytest.mark.parametrize(("weights", "block", "symmetric"), FORMS)
def test_rows_behind_the_panels_are_those_that_the_quantizer_made(
    sources: dict[str, Checkpoint], weights: str, block: int, symmetric: bool, tmp_path: Path
) -> None:
    source = sources["odd"]
    options: dict[str, Any] = {"block_size": block, "symmetric": symmetric}
    engine = build_engine(source, tmp_path / "engine", weights, **options)
    plan = OnnxRuntime().plan(source, preset(weights, **options)).weights
    found = stored_rows(engine)
    roles = ["", "/scales"] if symmetric else ["", "/scales", "/zero_points"]
    roles = [""] if weights == "fp32" else roles
    compared = 0
    for name, matrix in plan.matrices.items():
        arrays, _ = convert(plan, name)
        stack, _, index = name.partition("[")
        for role, array in zip(roles, arrays, strict=True):
            if not index:
                if matrix.kind != "embedding":
                    np.testing.assert_array_equal(found[f"{name}{role}"], array, name)
                    compared += 1
                continue
            # Of experts: flat, gate and up row by row, padded to whole blocks with nothing.
            flat = array.reshape(len(array), -1)
            owner = stack.removesuffix("/gate").removesuffix("/up").removesuffix("/down")
            kind = "down" if stack.endswith("/down") else "gate_up"
            rows = found[f"{owner}/{kind}{role}"][int(index[:-1])]
            if kind == "gate_up":
                rows = rows[stack.endswith("/up") :: 2]
                assert not rows[len(flat) :].any()
                rows = rows[: len(flat)]
            np.testing.assert_array_equal(rows, flat, name)
            compared += 1
    experts = 2 * 3 * source.config.n_routed_experts
    assert compared == len(roles) * (len(plan.matrices) - 1)
    assert compared > len(roles) * experts


def test_a_layer_of_another_form_stays_with_onnxruntime(
    sources: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, recipe = sources["greedy"], preset("int4")
    mixed = {
        "mlp": Scheme(4, 16),
        "experts_gate_up@1": FLOAT32,
        "experts_down@1": FLOAT32,
        "attention@2": FLOAT32,
        "experts_gate_up@2": Scheme(4, 32, symmetric=False),
    }
    recipe = dataclasses.replace(recipe, schemes={**recipe.schemes, **mixed})
    plan = OnnxRuntime().plan(source, recipe)
    with BundleWriter(tmp_path / "engine") as writer:
        write_engine(plan, writer.folder)
        writer.commit(plan.manifest(read_prompting(source, fim=True), source.digest()))
    engine = Bundle.load(tmp_path / "engine")
    model = onnx.load(str(engine.path("kernels.onnx")), load_external_data=False)
    operators = {node.name: node.op_type for node in model.graph.node}
    assert operators["layers.0/mlp/down_proj"] == "MatMulNBits"
    # The shared experts are in blocks of 16, too, and so come after the routed ones.
    assert operators["layers.1/moe/experts"] == "Experts"
    assert operators["layers.1/moe/shared_experts/down_proj"] == "MatMulNBits"
    assert operators["layers.2/attention/o_proj"] == "Linear"
    bits = {
        node.name: attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name in ("bits", "experts_down_bits")
    }
    assert bits["layers.1/moe/experts"] == bits["layers.2/attention/o_proj"] == 32
    assert bits["layers.2/moe/experts"] == bits["layers.1/attention/o_proj"] == 4
    assert engine.manifest.onnx_parts.kernels is not None
    assert not engine.manifest.onnx_parts.kernels.whole
    assert_agree(*run_both(engine, source, monkeypatch), kl=1e-4)
