"""Plans are compiled once: a build that was killed goes on with those that are whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from trtcoder.bundle.compiled import PlanInfo
from trtcoder.errors import BuildError
from trtcoder.export.targets.tensorrt_rtx.compilation import (
    NOTE,
    Compilation,
    Shapes,
    compile_plans,
)
from trtcoder.export.targets.tensorrt_rtx.compiler import Compiled, Job

FOR = Compilation((86, 89), Shapes(4, 128, 32), weight_streaming=False)
PLANS = {
    PlanInfo("a.plan", "a.onnx", (0, 1)): 10,
    PlanInfo("b.plan", "b.onnx", (1, 3)): 20,
    PlanInfo("head.plan", "head.onnx", None): 5,
}
NAMES = [info.file for info in PLANS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    folder.mkdir()
    for info in PLANS:
        (folder / info.graph).write_text(f"graph {info.graph}")
        (folder / info.graph).with_suffix(".data").write_text("weights")
    return folder


class Stand:
    """In the compiler's place: writes what it was asked for, and stops before the ``last`` one."""

    def __init__(self, last: int = 99) -> None:
        self.jobs: list[Job] = []
        self._last = last

    def __call__(self, job: Job) -> Compiled:
        self.jobs.append(job)
        Path(job.plan).write_text(f"half of {job.graph}")
        if len(self.jobs) == self._last:
            raise KeyboardInterrupt
        Path(job.plan).write_text(f"plan of {Path(job.graph).read_text()}")
        return Compiled(1.0, 2, (3,), 4)


def compiled(folder: Path, compilation: Compilation = FOR) -> list[str]:
    """Compile, and return which plans were not there."""
    made = compile_plans(folder, PLANS, compilation, Stand())
    for info in PLANS:
        assert (folder / info.file).read_text() == f"plan of graph {info.graph}"
    return list(made)


def test_the_plans_that_are_whole_are_not_compiled_again(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compile_plans(folder, PLANS, FOR, Stand(last=2))
    # What was half written has another name than a plan.
    assert not (folder / "b.plan").exists()
    assert compiled(folder) == ["b.plan", "head.plan"]
    assert compiled(folder) == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder: (folder / "b.plan").write_text("other"), ["b.plan"]),
        (lambda folder: (folder / "b.plan").unlink(), ["b.plan"]),
        (lambda folder: (folder / "a.data").write_text("others"), ["a.plan"]),
        (lambda folder: folder.with_name(NOTE).unlink(), NAMES),
        (lambda folder: folder.with_name(NOTE).write_text("{"), NAMES),
        (lambda folder: folder.with_name(NOTE).write_text('{"a.plan": 1}'), NAMES),
    ],
    ids=["plan changed", "plan gone", "weights changed", "note gone", "note cut", "note wrong"],
)
def test_what_has_changed_is_compiled_again(
    folder: Path, change: Callable[[Path], object], again: list[str]
) -> None:
    compiled(folder)
    change(folder)
    assert compiled(folder) == again


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(FOR, capabilities=(86,)),
        dataclasses.replace(FOR, weight_streaming=True),
        dataclasses.replace(FOR, shapes=Shapes(4, 256, 32)),
    ],
)
def test_plans_for_something_else_are_compiled_anew(folder: Path, other: Compilation) -> None:
    compiled(folder)
    assert compiled(folder, other) == NAMES


def test_a_folder_that_was_moved_keeps_its_plans(folder: Path) -> None:
    compiled(folder)
    moved = folder.parent.rename(folder.parent.with_name("moved")) / folder.name
    assert compiled(moved) == []


def test_decoding_and_prompts_have_a_profile_each_and_the_head_one() -> None:
    decode, prompt = FOR.shapes.profiles(head=False)
    assert decode["length"] == (1, 1, 1)
    assert decode["slots"][2] == decode["tokens"][2] == 4
    assert prompt["slots"] == (1, 1, 1)
    assert prompt["length"] == prompt["tokens"] == (1, 32, 32)
    assert decode["window"][2] == prompt["window"][2] == 128
    assert FOR.shapes.rows == 129
    assert FOR.shapes.profiles(head=True) == ({"tokens": (1, 1, 4)},)


def test_a_compiler_that_ends_without_a_word_is_reported(tmp_path: Path) -> None:
    from trtcoder.export.targets.tensorrt_rtx.compilation import compile_in_child

    job = Job(str(tmp_path / "none.onnx"), str(tmp_path / "p"), (86,), 9, (), False)
    with pytest.raises(BuildError, match=r"none\.onnx|not installed"):
        compile_in_child(job)
