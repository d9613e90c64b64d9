"""A target that is no graph goes the same way as the one that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.toy_architecture import TOY, register
from tests.toy_target import FILE, CopyTarget
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError, EngineError, ParityError
from trtcoder.export.pipeline import Built, build_engine
from trtcoder.export.recipe import preset
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets import registry
from trtcoder.export.targets.registry import find_target
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import write_random_checkpoint


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    register(monkeypatch)
    monkeypatch.setitem(registry.TARGETS, "copy", CopyTarget())
    return Checkpoint.open(write_random_checkpoint(tmp_path / "checkpoint", TOY))


def build(source: Checkpoint, out: Path) -> Built:
    request = BuildRequest(preset("fp32"), tokens=64, target="copy")
    with BundleWriter(out) as writer:
        return build_engine(source, read_prompting(source, True), request, writer, print)


def test_it_is_converted_verified_and_committed_without_a_graph(
    source: Checkpoint, tmp_path: Path
) -> None:
    built = build(source, tmp_path / "engine")
    assert built.certificate.verdict == "passed"
    assert built.certificate.logits.max_abs == 0
    assert built.certificate.reference.versions["copy"] == "1"
    assert "onnxruntime" not in built.certificate.reference.versions
    bundle = Bundle.load(tmp_path / "engine")
    assert bundle.manifest.target == "copy"
    assert bundle.manifest.onnx is None
    assert FILE in bundle.manifest.files
    written = Checkpoint.open(bundle.folder)
    for name in source.names():
        np.testing.assert_array_equal(written.read(name), source.read(name))
    with pytest.raises(EngineError, match="an engine for copy has no ONNX graph"):
        bundle.graph_path  # noqa: B018


def test_its_faults_are_judged_by_the_same_gates(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TARGETS, "copy", CopyTarget(fault=0.5))
    with pytest.raises(ParityError, match="relative logit error"):
        build(source, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_target_that_is_not_known_is_named() -> None:
    with pytest.raises(BuildError, match="target: 'tensorrt' is unknown; use one of onnx"):
        find_target("tensorrt")
    assert all(find_target(name).name == name for name in registry.TARGETS)
