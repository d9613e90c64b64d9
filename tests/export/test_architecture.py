"""An architecture that is added goes the whole way from config.json to a served answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.toy_architecture import TOY, declare_toy, register, toy_config
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.onnx import CacheInfo
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cli import main
from trtcoder.errors import BuildError, ConfigError, ParityError
from trtcoder.export.graph import registry as graphs
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.pipeline import Built, build_engine
from trtcoder.export.precision.sizing import estimate
from trtcoder.export.recipe import preset
from trtcoder.export.reference import registry as references
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets.registry import find_target
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import write_random_checkpoint


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        folder = tmp_path_factory.mktemp("toy") / "checkpoint"
        return Checkpoint.open(write_random_checkpoint(folder, TOY))


def build(source: Checkpoint, out: Path, weights: str) -> Built:
    request = BuildRequest(preset(weights), tokens=64)
    with BundleWriter(out) as writer:
        return build_engine(source, read_prompting(source, True), request, writer, print)


def test_it_is_built_verified_and_served(source: Checkpoint, tmp_path: Path) -> None:
    built = build(source, tmp_path / "engine", "fp32")
    assert built.certificate.verdict == "passed"
    assert built.certificate.reference.versions["toy"] == "1"
    assert built.certificate.layers[1].router_agreement is None
    manifest = Bundle.load(tmp_path / "engine").manifest
    assert manifest.model.config["model_type"] == "toy_dense"
    assert [cache.width for cache in manifest.graph.caches] == [32, 32]
    arguments = ["complete", str(tmp_path / "engine"), "abc", "--max-tokens", "3", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8"])
def test_every_precision_stores_it(source: Checkpoint, tmp_path: Path, weights: str) -> None:
    built = build(source, tmp_path / "engine", weights)
    plan = find_target("onnx").plan(source, preset(weights))
    stored = {tensor.name for tensor in built.certificate.tensors}
    assert stored >= plan.weights.matrices.keys()
    declared = sum(weight.nbytes for weight in plan.weights.declared.values())
    assert sum(estimate(plan).classes.values()) == declared
    files = built.manifest.files
    assert plan.nbytes == sum(info.bytes for name, info in files.items() if name != "parity.json")


def test_a_fault_of_its_graph_is_seen(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(model: ModelBuilder) -> tuple[CacheInfo, ...]:
        config = dataclasses.replace(toy_config(source.config), rms_norm_eps=1e-1)
        return declare_toy(
            dataclasses.replace(model, checkpoint=dataclasses.replace(source, config=config))
        )

    monkeypatch.setitem(graphs.GRAPHS, "toy_dense", faulty)
    with pytest.raises(ParityError, match="relative logit error"):
        build(source, tmp_path / "engine", "fp32")
    assert not (tmp_path / "engine").exists()


def test_an_architecture_that_is_not_known_is_named(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(references.REFERENCES, "toy_dense")
    with pytest.raises(BuildError, match="no reference for model_type 'toy_dense', only"):
        build(source, tmp_path / "engine", "fp32")
    monkeypatch.delitem(graphs.GRAPHS, "toy_dense")
    with pytest.raises(BuildError, match="no graph for model_type 'toy_dense', only for deepseek"):
        find_target("onnx").plan(source, preset("fp32"))
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TOY | {"model_type": "other"}))
    with pytest.raises(ConfigError, match="model_type: 'other' is not supported, only deepseek_v2"):
        Checkpoint.open(folder)
