"""The parts of a graph compute what the graph computes, and each holds only its own weights."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.engines import build_engine, plain_session, probe, write_checkpoint
from tests.two_ways import WAYS, go
from trtcoder.bundle.folder import Bundle
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cores import available_cores
from trtcoder.errors import EngineError
from trtcoder.export.parity.graph_parts import cut_graph
from trtcoder.export.parity.graph_probe import EngineTrace, GraphProbe
from trtcoder.export.parity.graph_sequence import GraphSequence
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
CONFIGS = {
    "greedy": tiny_config(),
    "grouped": tiny_grouped_config(),
    "dense": tiny_config(first_k_dense_replace=3),
    "tied": tiny_config(tie_word_embeddings=True),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("parts")
    return {name: write_checkpoint(folder / name, config) for name, config in CONFIGS.items()}


def run_whole(
    engine: Bundle, source: Checkpoint, positions: np.ndarray | None, chunk: int | None
) -> EngineTrace:
    """Return what one session over the whole graph computes, as it serves."""
    layers = range(source.config.num_hidden_layers)
    hidden = [f"layers.{layer}/output" for layer in layers]
    routers = [
        f"layers.{layer}/moe/router/probabilities"
        for layer in layers
        if source.config.is_moe_layer(layer)
    ]
    session = plain_session(engine, *hidden, *routers, threads=available_cores())
    state = GraphSequence.start(IDS, positions, chunk, engine.manifest.graph.cache_block)
    caches = {
        cache.name: np.zeros((state.cache_rows, cache.width), cache.dtype)
        for cache in engine.manifest.graph.caches
    }
    names = ["logits", *hidden, *routers]
    found = []
    for part in state.passes:
        outputs = [*names, *(f"{name}.out" for name in caches)]
        values = session.run(outputs, part.inputs | caches)
        found.append(values[: len(names)])
        caches = dict(zip(caches, values[len(names) :], strict=True))
    logits, *rest = (np.concatenate(values) for values in zip(*found, strict=True))
    probabilities = rest[len(hidden) :]
    return EngineTrace(
        logits,
        np.stack(rest[: len(hidden)]),
        np.stack(probabilities) if probabilities else np.zeros((0, len(IDS), 0), np.float32),
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("weights", "recipe"),
    [
        ("fp32", {}),
        ("fp32", {"cache": "int8"}),
        ("int8", {}),
        ("int8", {"accuracy_level": 0}),
        ("int4", {}),
        ("int4", {"cache": "int8", "symmetric": False}),
    ],
    ids=str,
)
def test_the_parts_compute_bit_for_bit_what_the_whole_graph_computes(
    sources: dict[str, Checkpoint],
    name: str,
    weights: str,
    recipe: dict[str, Any],
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = sources[name]
    go(way, monkeypatch)
    engine = build_engine(source, tmp_path / "engine", weights, **recipe)
    staged = probe(engine, source)
    gap = np.arange(50) + np.where(np.arange(50) < 16, 0, 8192)
    for positions, chunk in ((None, None), (gap, None), (None, 1), (gap, 7)):
        found = staged.run(IDS, positions=positions, chunk=chunk)
        whole = run_whole(engine, source, positions, chunk)
        # The same kernels on the same values: no tolerance, which could hide a wrong wire.
        np.testing.assert_array_equal(found.logits, whole.logits)
        np.testing.assert_array_equal(found.hidden, whole.hidden)
        np.testing.assert_array_equal(found.router_probabilities, whole.router_probabilities)


@pytest.mark.parametrize("file", ["model.onnx", "kernels.onnx"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_node_and_weight_is_in_the_part_of_its_layer(
    sources: dict[str, Checkpoint], name: str, file: str, tmp_path: Path
) -> None:
    source = sources[name]
    engine = build_engine(source, tmp_path / "engine", "int4")
    model = onnx.load(str(engine.path(file)), load_external_data=False)
    parts = cut_graph(model, 3)
    assert [part.name for part in parts] == ["prologue", *(f"layers.{n}" for n in range(3)), "head"]
    nodes = [node.name for part in parts for node in part.model.graph.node]
    assert sorted(nodes) == sorted(node.name for node in model.graph.node)
    external = [
        [tensor.name for tensor in part.model.graph.initializer if tensor.external_data]
        for part in parts
    ]
    assert {name for names in external for name in names} == {
        tensor.name for tensor in model.graph.initializer if tensor.external_data
    }
    for layer, names in enumerate(external[1:-1]):
        # A layer's first norm ends the part before it.
        next_norm = f"layers.{layer + 1}/input_norm" if layer < 2 else "final_norm"
        assert all(name.startswith((f"layers.{layer}/", next_norm)) for name in names)
    assert all(name.startswith(("embed_tokens", "layers.0/input_norm")) for name in external[0])
    assert all(name.startswith("lm_head") for name in external[-1])
    made = {value.name for value in model.graph.input}
    for part in parts:
        assert set(part.inputs) <= made
        made |= set(part.outputs)
    assert {value.name for value in model.graph.output} <= made


def test_one_session_is_open_at_a_time(
    sources: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = probe(build_engine(sources["greedy"], tmp_path / "engine"), sources["greedy"])
    opened: list[weakref.ref[Any]] = []
    open_part = GraphProbe._open

    def open_one(self: GraphProbe, part: Any) -> Any:
        assert [session for session in opened if session() is not None] == []
        session = open_part(self, part)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(GraphProbe, "_open", open_one)
    watched.run(IDS, chunk=16)
    assert len(opened) == 5


def test_sequences_pass_each_part_together_and_get_what_they_get_alone(
    sources: dict[str, Checkpoint], tmp_path: Path
) -> None:
    source = sources["grouped"]
    watched = probe(build_engine(source, tmp_path / "engine", "int4"), source)
    far = np.arange(8192, 8192 + 20)
    told: list[str] = []
    together = watched.run_all([IDS, IDS[:20]], [None, far], on_stage=told.append)
    assert told == ["prologue", "layers.0", "layers.1", "layers.2", "head"]
    alone = [watched.run(IDS), watched.run(IDS[:20], positions=far)]
    for found, wanted in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found.logits, wanted.logits)
        np.testing.assert_array_equal(found.hidden, wanted.hidden)


@pytest.mark.parametrize(
    ("tokens", "positions"), [([], None), ([1, 2], np.array([0, 2])), ([1, 2], np.array([3, 4]))]
)
def test_positions_leave_gaps_only_between_blocks(
    tokens: list[int], positions: np.ndarray | None
) -> None:
    with pytest.raises(ValueError, match="only between blocks of 16"):
        GraphSequence.start(tokens, positions, None, 16)


def node(name: str, inputs: list[str], op_type: str = "Identity", **attributes: Any) -> Any:
    return onnx.helper.make_node(op_type, inputs, [name], name=name, **attributes)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("layers.0/a", ["layers.1/b"]), node("layers.1/b", ["x"])], "later part"),
        (
            [node("layers.0/a", ["x"], "If", then_branch=onnx.GraphProto(name="inner"))],
            "graph of its own",
        ),
        ([node("layers.0/a", ["x"])], "no values logits"),
    ],
)
def test_a_graph_that_cannot_be_cut_is_refused(nodes: list[Any], message: str) -> None:
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
        for name in ("x", *(made.name for made in nodes))
    ]
    graph = onnx.helper.make_graph(nodes, "test", values[:1], values[1:])
    with pytest.raises(EngineError, match=message):
        cut_graph(onnx.helper.make_model(graph), 2, ["logits"] if "logits" in message else [])
