"""Going on with an interrupted build whose files have changed: the right bytes or a refusal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import write_checkpoint
from tests.export.weights.test_writer import StoppedError, build, contents, journal_of
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import CheckpointError
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, OnnxRuntime
from trtcoder.export.weights.data_file import layout
from trtcoder.testing.random_checkpoint import tiny_config

ATTENTION = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("resume") / "checkpoint", tiny_config())


@pytest.fixture(scope="module")
def whole(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(source, folder)
    return folder


def stop_after(source: Checkpoint, folder: Path, steps: int) -> None:
    with pytest.raises(StoppedError):
        build(source, folder, lambda step: step == steps)


def remove(data: Path) -> None:
    data.unlink()


def cut_off(data: Path) -> None:
    os.truncate(data, data.stat().st_size // 3)


def lengthen(data: Path) -> None:
    with data.open("ab") as file:
        file.write(b"more")


def scribble(data: Path) -> None:
    size = data.stat().st_size
    data.write_bytes(np.random.default_rng(1).bytes(size))


def replace_by_zeros(data: Path) -> None:
    data.write_bytes(bytes(data.stat().st_size))


@pytest.mark.parametrize("damage", [remove, cut_off, lengthen, scribble, replace_by_zeros])
@pytest.mark.parametrize("steps", [3, None])
def test_data_that_is_damaged_is_written_again(
    source: Checkpoint, whole: Path, tmp_path: Path, damage: Callable[[Path], None],
    steps: int | None,
) -> None:  # fmt: skip
    if steps is None:  # killed while the engine was verified
        build(source, tmp_path)
    else:
        stop_after(source, tmp_path, steps)
    damage(tmp_path / DATA_FILE)
    build(source, tmp_path)
    assert contents(tmp_path) == contents(whole)


@settings(max_examples=30)
@given(st.data())
def test_one_byte_anywhere_runs_one_step_again(
    source: Checkpoint, whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("byte")
    for path in whole.iterdir():
        shutil.copyfile(path, folder / path.name)
    offset = data.draw(st.integers(0, (folder / DATA_FILE).stat().st_size - 1))
    with (folder / DATA_FILE).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ data.draw(st.integers(1, 255))]))
    weights = OnnxRuntime().plan(source, preset("int4")).weights.declared
    offsets, _ = layout(weights.values())
    is_in_a_gap = not any(
        offsets[name] <= offset < offsets[name] + weight.nbytes for name, weight in weights.items()
    )
    written, _ = build(source, folder)
    assert written.again == (0 if is_in_a_gap else 1)
    assert contents(folder) == contents(whole)


def test_gaps_that_another_plan_filled_are_zeros_again(
    source: Checkpoint, whole: Path, tmp_path: Path
) -> None:
    stop_after(source, tmp_path, 2)
    weights = OnnxRuntime().plan(source, preset("int4")).weights.declared
    offsets, size = layout(weights.values())
    ends = [*sorted(offsets.values())[1:], size]
    with (tmp_path / DATA_FILE).open("r+b") as file:
        for (name, weight), end in zip(weights.items(), ends, strict=True):
            file.seek(offsets[name] + weight.nbytes)
            file.write(b"\xee" * (end - offsets[name] - weight.nbytes))
    build(source, tmp_path)
    assert contents(tmp_path) == contents(whole)


def in_place(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x00\x3f" * 200)


def by_another_file(path: Path, offset: int) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    in_place(copy, offset)
    os.replace(copy, path)


@pytest.mark.parametrize("replace", [in_place, by_another_file])
def test_a_shard_replaced_with_the_same_size_and_time_gives_its_own_engine(
    tmp_path: Path, replace: Callable[[Path, int], None]
) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", tiny_config(), shard_bytes=1_000_000)
    build(source, tmp_path / "engine")
    stored = source.tensors[ATTENTION]
    status = stored.file.path.stat()
    replace(stored.file.path, stored.offset)
    os.utime(stored.file.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = Checkpoint.open(tmp_path / "checkpoint")
    written, ran = build(changed, tmp_path / "engine")
    assert (written.again, ran) == (1, 1)
    assert changed.combine(written.digests) == changed.digest()
    build(changed, tmp_path / "fresh")
    assert contents(tmp_path / "engine") == contents(tmp_path / "fresh")
    # Noted anew: the next one finds nothing that has changed.
    assert build(changed, tmp_path / "engine")[1] == 0


def test_a_shard_that_was_only_touched_costs_no_step(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    stop_after(source, tmp_path / "engine", 8)
    noted = journal_of(source, tmp_path / "engine").steps
    digested = {name for step in noted.values() for name in step.digests}
    steps = OnnxRuntime().plan(source, preset("int4")).weights.steps
    # Steps run side by side: what a step read may have its digest with one that did not end.
    untold = [step for step in steps if step.key in noted and not digested.issuperset(step.sources)]
    assert len(untold) < len(noted)
    source.tensors[ATTENTION].file.path.touch()
    again = Checkpoint.open(tmp_path / "checkpoint")
    written, _ = build(again, tmp_path / "engine")
    assert written.again == len(untold)


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    stored = source.tensors[ATTENTION]

    def overwrite(step: int) -> bool:
        if step == len(OnnxRuntime().plan(source, preset("int4")).weights.steps):
            in_place(stored.file.path, stored.offset)
        return False

    with pytest.raises(CheckpointError, match=rf"{ATTENTION} changed while it was read"):
        build(source, tmp_path / "engine", overwrite)
    changed = Checkpoint.open(tmp_path / "checkpoint")
    build(changed, tmp_path / "engine")
    build(changed, tmp_path / "fresh")
    assert contents(tmp_path / "engine") == contents(tmp_path / "fresh")


def test_an_interrupted_build_notes_what_it_has_read(source: Checkpoint, tmp_path: Path) -> None:
    stop_after(source, tmp_path, 5)
    journal = journal_of(source, tmp_path)
    assert not journal.sources_changed
    digests = {n: d for step in journal.steps.values() for n, d in step.digests.items()}
    assert digests == {name: source.tensor_digest(name) for name in digests}
