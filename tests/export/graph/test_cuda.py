"""The graph for CUDA, as far as a CPU shows it: its twin, and itself around attention in NumPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.engines import build_by, probe, write_checkpoint
from tests.reference.paged import CacheForm, PagedBatch, attend
from trtcoder.bundle.folder import Bundle
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.inputs import CACHE_BLOCK
from trtcoder.export.graph.registry import declare_cuda_graph
from trtcoder.export.parity.logits import kl_divergence
from trtcoder.export.recipe import Recipe, RecipeOptions
from trtcoder.export.targets.cuda import cuda_recipe
from trtcoder.export.weights.data_file import layout, open_data
from trtcoder.export.weights.writer import write_weights
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

CONFIGS = {
    "lite": tiny_config(),
    "full": tiny_grouped_config(),
    "normalised": tiny_config(norm_topk_prob=True, q_lora_rank=96),
    "no shared": tiny_config(n_shared_experts=None),
}
NARROW = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("cuda")
    return {name: write_checkpoint(folder / name, config) for name, config in CONFIGS.items()}


def recipe(**options: Any) -> Recipe:
    return cuda_recipe(RecipeOptions(provider="cuda", **options))


def on_cpu(source: Checkpoint, folder: Path, given: Recipe) -> Bundle:
    """Return the CPU's engine of the same stored weights, with float32 activations."""
    same = dataclasses.replace(given, provider="cpu", activations=None, cache="fp32")
    return build_by(source, folder, same)


@pytest.mark.parametrize("activations", NARROW)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_twin_computes_what_the_cpus_engine_does_but_for_rounding(
    sources: dict[str, Checkpoint], name: str, activations: str, tmp_path: Path
) -> None:
    source, given = sources[name], recipe(activations=activations)
    wanted = probe(on_cpu(source, tmp_path / "cpu", given), source).run(IDS)
    found = probe(build_by(source, tmp_path / "cuda", given), source).run(IDS)
    kl = float(kl_divergence(wanted.logits, found.logits).mean())
    # Eight or eleven significant bits: at most 7e-5 and 1e-6, measured. A wrong formula is 1e-2 and
    # more.
    assert 0 < kl < {"bf16": 3e-4, "fp16": 1e-5}[activations]


@pytest.mark.parametrize("activations", NARROW)
def test_all_that_layers_pass_on_is_of_the_activations_type(
    sources: dict[str, Checkpoint], activations: str, tmp_path: Path
) -> None:
    source = sources["lite"]
    engine = build_by(source, tmp_path / "cuda", recipe(activations=activations))
    hidden = probe(engine, source).run(IDS).hidden
    assert np.array_equal(hidden, hidden.astype(NARROW[activations]).astype(np.float32))


@pytest.mark.parametrize(("cache", "allowed"), [("int8", 4e-4), ("fp8", 4e-4)])
def test_caches_with_fixed_scales_are_close_to_the_exact_one(
    sources: dict[str, Checkpoint], cache: str, allowed: float, tmp_path: Path
) -> None:
    source = sources["lite"]
    exact = build_by(source, tmp_path / "exact", recipe(activations="fp16"))
    rounded = build_by(source, tmp_path / "rounded", recipe(activations="fp16", cache=cache))
    logits = [probe(engine, source).run(IDS, chunk=7).logits for engine in (exact, rounded)]
    kl = float(kl_divergence(*logits).mean())
    # 1e-4, measured.
    assert 1e-6 < kl < allowed


def write_graph(
    source: Checkpoint, given: Recipe, folder: Path, *, twin: bool
) -> tuple[onnx.ModelProto, DeepseekV2Config]:
    """Write a graph whose activations are float32, so that both can be held to float32's bits."""
    graph = declare_cuda_graph(source, given, ir.DataType.FLOAT)
    folder.mkdir()
    with open_data(graph.builder.plan, folder / "model.data") as sink:
        write_weights(graph.builder.plan, sink, checkpoint=source)
    offsets, _ = layout(graph.builder.plan.declared.values())
    chosen = graph.twin if twin else graph.builder
    assert chosen is not None
    ir.save(chosen.model("model.data", offsets), folder / "model.onnx")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    return model, DeepseekV2Config.of(source.config)


def run_model(
    model: onnx.ModelProto, folder: Path, feeds: dict[str, Any], names: list[str]
) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    wanted = {value.name for value in session.get_inputs()}
    given = {name: value for name, value in feeds.items() if name in wanted}
    return [np.asarray(value) for value in session.run(names, given)]


def around_attention(
    model: onnx.ModelProto,
    folder: Path,
    config: DeepseekV2Config,
    feeds: dict[str, Any],
    batch: PagedBatch,
    caches: dict[str, NDArray[Any]],
    form: CacheForm,
) -> NDArray[np.float32]:
    """Run the graph for CUDA layer by layer, with its attention nodes in NumPy; return logits."""
    whole, model = model, onnx.ModelProto()
    model.CopyFrom(whole)
    width = config.num_attention_heads * config.kv_lora_rank
    nodes = {node.output[0]: node for node in model.graph.node if node.op_type == "PagedAttention"}
    for given in [each for each in model.graph.input if each.name not in feeds]:
        model.graph.input.remove(given)
    for node in nodes.values():
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["scale"] == pytest.approx(config.softmax_scale)
        assert attributes["kv_cache_layout"] == b"LATENT"
        assert attributes["kv_num_heads"] == 1
        model.graph.node.remove(node)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.input[:2])
        mixed = onnx.helper.make_tensor_value_info(
            node.output[0], onnx.TensorProto.FLOAT, ["tokens", width]
        )
        model.graph.input.append(mixed)
    for output in [each for each in model.graph.output if each.name.startswith("cache.")]:
        model.graph.output.remove(output)
    known = {name: np.zeros((len(feeds["input_ids"]), width), np.float32) for name in nodes}
    for layer, (name, node) in enumerate(nodes.items()):
        query, entry = run_model(model, folder, {**feeds, **known}, list(node.input[:2]))
        known[name] = attend(
            query,
            entry,
            caches[f"cache.{layer}"],
            batch,
            form,
            heads=config.num_attention_heads,
            value=config.kv_lora_rank,
            scale=config.softmax_scale,
        ).astype(np.float32)
    (logits,) = run_model(model, folder, {**feeds, **known}, ["logits"])
    return logits


@pytest.mark.parametrize("name", ["lite", "full"])
def test_the_graph_around_attention_in_numpy_computes_what_its_twin_does(
    sources: dict[str, Checkpoint], name: str, tmp_path: Path
) -> None:
    source, rng = sources[name], np.random.default_rng(5)
    given = recipe(weights="int4")
    paged, config = write_graph(source, given, tmp_path / "paged", twin=False)
    twin, _ = write_graph(source, given, tmp_path / "twin", twin=True)
    shape = (5, CACHE_BLOCK, config.cache_width)
    names = [f"cache.{layer}" for layer in range(config.num_hidden_layers)]
    # What others left there.
    caches = {each: np.full(shape, 40, np.float32) for each in names}
    rows = {each: np.full((shape[0] * shape[1], shape[2]), 40, np.float32) for each in names}
    table = np.array([[4, 1], [2, 0]])
    for past, new in (([0, 0], [19, 5]), ([19, 5], [1, 14])):
        sequences = np.repeat([0, 1], new)
        positions = np.concatenate([np.arange(p, p + n) for p, n in zip(past, new, strict=True)])
        slots = table[sequences, positions // CACHE_BLOCK] * CACHE_BLOCK + positions % CACHE_BLOCK
        batch = PagedBatch(np.cumsum([0, *new]), np.array(past), table, slots)
        feeds = {
            "input_ids": rng.integers(0, 256, sum(new)),
            "positions": positions,
            "slots": slots,
            "sequences": sequences,
            "block_table": table,
            "sample_rows": np.arange(sum(new)),
        }
        outputs = ["logits", *(f"{each}.out" for each in rows)]
        wanted, *written = run_model(twin, tmp_path / "twin", {**feeds, **rows}, outputs)
        rows = dict(zip(rows, written, strict=True))
        found = around_attention(
            paged, tmp_path / "paged", config, feeds, batch, caches, CacheForm("fp32")
        )
        # float32 sums against float64 ones in attention.
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
        for each, truth in rows.items():
            ours = caches[each].reshape(truth.shape)
            np.testing.assert_allclose(ours, truth, atol=2e-5 * np.abs(truth).max())


def test_the_graph_for_cuda_passes_the_checker_and_reads_its_twins_weights(
    sources: dict[str, Checkpoint], tmp_path: Path
) -> None:
    engine = build_by(sources["full"], tmp_path / "engine", recipe(cache="int8"))
    models = {}
    for file in ("model.onnx", "twin.onnx"):
        models[file] = onnx.load(str(engine.path(file)), load_external_data=False)
        names = [node.name for node in models[file].graph.node]
        assert len(set(names)) == len(names)
    external = [
        {tensor.name for tensor in model.graph.initializer if tensor.external_data}
        for model in models.values()
    ]
    assert external[0] == external[1]
    operators = {node.op_type for node in models["model.onnx"].graph.node}
    # It needs cuDNN, which nothing else here does.
    assert "ReduceMax" not in operators
    assert {"PagedAttention", "QMoE", "MatMulNBits"} <= operators
