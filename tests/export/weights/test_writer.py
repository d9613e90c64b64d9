"""Writing the data file: in any order, interrupted, and on a disk that is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from operator import eq
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import write_checkpoint
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError, CheckpointError
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, GRAPH_FILE, OnnxRuntime
from trtcoder.export.targets.target import journal_key, write_engine
from trtcoder.export.weights.journal import Journal
from trtcoder.export.weights.plan import Step
from trtcoder.export.weights.writer import Written
from trtcoder.testing.random_checkpoint import tiny_config


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "checkpoint", tiny_config())


class StoppedError(Exception):
    """Stands for whatever ends a build."""


def build(
    source: Checkpoint, folder: Path, stop: Callable[[int], bool] = lambda step: False
) -> tuple[Written, int]:
    """Build in ``folder``, going on with what is there; return what and how many steps ran."""
    folder.mkdir(exist_ok=True)
    plan = OnnxRuntime().plan(source, preset("int4"))
    journal = Journal(folder / "journal.jsonl", journal_key(plan), source.identity())
    known = len(journal.steps)
    seen = 0

    def on_step(step: Step) -> None:
        nonlocal seen
        seen += 1
        if stop(seen - known):
            raise StoppedError

    written = write_engine(plan, folder, on_step=on_step, journal=journal)
    return written, len(plan.weights.steps) - known + written.again


def journal_of(source: Checkpoint, folder: Path) -> Journal:
    plan = OnnxRuntime().plan(source, preset("int4"))
    return Journal(folder / "journal.jsonl", journal_key(plan), source.identity())


def contents(folder: Path) -> tuple[bytes, bytes]:
    return (folder / DATA_FILE).read_bytes(), (folder / GRAPH_FILE).read_bytes()


def test_two_builds_are_identical(source: Checkpoint, tmp_path: Path) -> None:
    first, second = build(source, tmp_path / "a"), build(source, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first == second


def test_tensors_are_hashed_on_the_way(source: Checkpoint, tmp_path: Path) -> None:
    written, _ = build(source, tmp_path / "a")
    assert source.combine(written.digests) == source.digest()


@settings(max_examples=12)
@given(st.integers(1, 25), st.integers(1, 25))
def test_a_build_that_was_stopped_twice_ends_with_the_same_bytes(
    source: Checkpoint, tmp_path_factory: pytest.TempPathFactory, first: int, second: int
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    whole, steps = build(source, folder / "whole")
    for stop in (first, second):
        with pytest.raises(StoppedError):
            build(source, folder / "part", partial(eq, stop))
    resumed, left = build(source, folder / "part")
    # What was running when it stopped is finished and noted too.
    assert left <= steps - first - second
    assert contents(folder / "part") == contents(folder / "whole")
    assert resumed == whole


@settings(max_examples=30)
@given(st.data())
def test_a_journal_cut_anywhere_is_true(
    source: Checkpoint, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole, _ = build(source, folder)
    before = contents(folder)
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes()
    journal.write_bytes(lines[: data.draw(st.integers(0, len(lines)))])
    again, _ = build(source, folder)
    assert contents(folder) == before
    assert again == whole
    steps = OnnxRuntime().plan(source, preset("int4")).weights.steps
    assert len(journal_of(source, folder).steps) == len(steps)


def test_a_full_disk_is_named_and_the_build_goes_on_when_there_is_room(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, tmp_path / "whole")
    pwrite, written = os.pwrite, 0

    def fills(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 200_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fills)
    with pytest.raises(BuildError, match=r"model\.data: .*the disk is full.*goes on"):
        build(source, tmp_path / "part")
    monkeypatch.undo()
    assert journal_of(source, tmp_path / "part").steps
    build(source, tmp_path / "part")
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_a_disk_without_room_is_refused_at_once(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(BuildError, match=r"more bytes and the disk has 1,000"):
        build(source, tmp_path / "part")


def test_a_shard_cut_off_during_the_build_is_named(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config(), shard_bytes=1_000_000)
    shard = sorted((tmp_path / "checkpoint").glob("*.safetensors"))[-1]
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=rf"{shard.name}: became shorter while it was read"):
        build(checkpoint, tmp_path / "engine")
    # What was finished from the other shards stays noted.
    lines = (tmp_path / "engine" / "journal.jsonl").read_text().splitlines()
    assert len(lines) > 1


def test_a_shard_that_disappeared_is_named_when_the_build_goes_on(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config(), shard_bytes=1_000_000)
    with pytest.raises(StoppedError):
        build(checkpoint, tmp_path / "engine", lambda step: step == 5)
    shard = sorted((tmp_path / "checkpoint").glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}: is missing"):
        Checkpoint.open(tmp_path / "checkpoint")
