"""What an engine runs on: our kernels where it has them and this machine does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.two_ways import go
from trtcoder.bundle.onnx import CacheInfo, GraphInfo, KernelGraph, OnnxParts, Requires
from trtcoder.plugins.choice import choose
from trtcoder.plugins.library import OPERATORS, open_library

PARTS = OnnxParts(
    GraphInfo("model.onnx", 16, (CacheInfo("cache.0", "float32", 96),)),
    Requires("1.31", "CPUExecutionProvider"),
    KernelGraph("kernels.onnx", OPERATORS, whole=True),
)


class Options:
    """Notes what a session's options are told."""

    def __init__(self) -> None:
        self.libraries: list[str] = []
        self.intra_op_num_threads = self.inter_op_num_threads = 0
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def register_custom_ops_library(self, path: str) -> None:
        self.libraries.append(path)


def options_of(choice: Any) -> Options:
    options = Options()
    choice.configure(options, 3)
    return options


def test_our_kernels_run_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    go("kernels", monkeypatch)
    choice = choose(PARTS)
    assert choice.file == "kernels.onnx"
    isa = open_library().isa
    assert str(choice) == f"trtcoder's kernels, {isa}"
    assert choice.versions == {"kernels": isa}
    options = options_of(choice)
    assert options.libraries == [str(open_library().path)]
    # The kernels have the threads, and the runtime's pool does not spin beside them.
    assert options.intra_op_num_threads == 1


def test_a_graph_of_both_keeps_the_threads_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    go("kernels", monkeypatch)
    parts = dataclasses.replace(PARTS, kernels=KernelGraph("kernels.onnx", OPERATORS, whole=False))
    choice = choose(parts)
    assert str(choice).endswith(", and ONNX Runtime's own operators")
    options = options_of(choice)
    assert options.intra_op_num_threads == 3
    # Two pools that spin take the cores from each other.
    assert options.entries == {"session.intra_op.allow_spinning": "0"}


def test_an_engine_with_our_attention_alone_leaves_all_threads_to_onnxruntime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go("kernels", monkeypatch)
    kernels = KernelGraph("kernels.onnx", OPERATORS, whole=False, products=False)
    choice = choose(dataclasses.replace(PARTS, kernels=kernels))
    isa = open_library().isa
    assert str(choice) == f"trtcoder's attention, {isa}, and ONNX Runtime's own operators"
    told: list[int] = []
    monkeypatch.setattr(type(open_library()), "set_threads", lambda _, count: told.append(count))
    options = options_of(choice)
    assert options.libraries == [str(open_library().path)]
    assert options.intra_op_num_threads == 3
    assert options.entries == {}
    assert told == []


@pytest.mark.parametrize("revision", range(1, OPERATORS + 1))
def test_an_engine_of_an_earlier_revision_runs_on_our_kernels(
    monkeypatch: pytest.MonkeyPatch, revision: int
) -> None:
    go("kernels", monkeypatch)
    kernels = KernelGraph("kernels.onnx", revision, whole=True)
    assert choose(dataclasses.replace(PARTS, kernels=kernels)).file == "kernels.onnx"


def test_hidden_kernels_leave_it_to_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    go("stock", monkeypatch)
    choice = choose(PARTS)
    assert (choice.file, choice.library) == ("model.onnx", None)
    assert str(choice) == (
        "ONNX Runtime's own operators: the kernels are hidden by TRTCODER_PLUGINS=0; unset it"
    )
    assert choice.versions == {"kernels": "none"}
    assert (options_of(choice).libraries, options_of(choice).intra_op_num_threads) == ([], 3)


def test_a_library_that_cannot_be_opened_leaves_it_to_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRTCODER_PLUGINS", raising=False)
    for content in (None, b"no library"):
        path = tmp_path / "kernels.so"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv("TRTCODER_KERNELS", str(path))
        choice = choose(PARTS)
        assert choice.file == "model.onnx"
        assert str(path) in choice.reason
        assert choice.is_broken == (content is not None)


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        (None, "has no products that our kernels make"),
        (
            KernelGraph("kernels.onnx", OPERATORS + 1, whole=True),
            f"revision {OPERATORS + 1} of our operators, and this trtcoder {OPERATORS}",
        ),
    ],
)
def test_an_engine_without_a_graph_for_these_kernels_runs_on_onnxruntime(
    kernels: KernelGraph | None, reason: str
) -> None:
    choice = choose(dataclasses.replace(PARTS, kernels=kernels))
    assert choice.file == "model.onnx"
    assert reason in str(choice)
