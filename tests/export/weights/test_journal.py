"""A journal that was cut, scribbled over, or written by something else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcoder.calib.storage.record import TensorRecord
from trtcoder.errors import BuildError
from trtcoder.export.weights.journal import Finished, Journal

PLAN = {"recipe": {"weights": "int4"}, "layout": "abc", "files": {"config.json": "d"}}
SOURCES = {"model.safetensors": [10, 20, 30, 40]}
RECORD = TensorRecord("a", "norms", "bf16", "exact", 4, 8, 1.5)


def step(key: str) -> Finished:
    return Finished(key, (RECORD,), ("11", "22"), {f"{key}.weight": "33"})


def opened(path: Path, **changes: Any) -> Journal:
    return Journal(path, PLAN | changes, SOURCES)


def written(path: Path) -> Journal:
    journal = opened(path)
    journal.add([step("a"), step("b")])
    journal.add([step("c")])
    journal.finish_stage(3, [step("d")], {"stream": "44", "coverage": {"tokens": {"0": [1]}}})
    return journal


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = written(tmp_path / "journal.jsonl")
    again = opened(tmp_path / "journal.jsonl")
    assert again.steps == journal.steps == {key: step(key) for key in "abcd"}
    assert (again.stage, again.state) == (journal.stage, journal.state)
    assert not again.sources_changed
    assert again.note == ""
    other = Journal(tmp_path / "journal.jsonl", PLAN, {"model.safetensors": [10, 20, 31, 40]})
    assert other.sources_changed


def test_there_is_no_file_while_nothing_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = opened(path)
    journal.add([])
    assert not path.exists()
    journal.add([step("a")])
    journal.keep({})
    assert not path.exists()
    assert journal.steps == {}


def test_what_is_kept_is_all_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    now = {"model.safetensors": [10, 20, 31, 41]}
    journal = Journal(path, PLAN, now)
    journal.keep({"b": step("b")})
    journal.add([step("e")])
    again = Journal(path, PLAN, now)
    assert again.steps.keys() == {"b", "e"}
    assert not again.sources_changed
    assert again.stage == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": "abd"}, "layout"),
        ({"recipe": {"weights": "int8"}, "files": {}}, "files, recipe"),
        ({"calibration": None}, "calibration"),
    ],
)
def test_another_plan_starts_over_and_says_what_changed(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    journal = opened(path, **changes)
    assert journal.note == f"changed since the interrupted build: {named}"
    assert (journal.steps, journal.stage, path.exists()) == ({}, -1, False)


@given(st.integers(0, 10**6))
def test_a_journal_cut_anywhere_has_a_beginning_of_what_it_had(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    journal = written(path)
    text = path.read_bytes()
    path.write_bytes(text[: at % len(text)])
    again = opened(path)
    assert list(again.steps) == list(journal.steps)[: len(again.steps)]
    again.add([step("x")])
    assert set(opened(path).steps) == {*again.steps}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["step", "stage", "state", "records", "parts", "digests", "sources"])
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(value=json_values, at=st.integers(0, 6), data=st.data())
def test_a_line_of_another_form_starts_over_with_a_word(
    tmp_path_factory: pytest.TempPathFactory, value: object, at: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("form") / "journal.jsonl"
    written(path)
    lines = path.read_text().splitlines()
    entry = json.loads(lines[at])
    if data.draw(st.booleans()):  # one value of a line that is otherwise right
        entry[data.draw(st.sampled_from(sorted(entry)))] = value
        value = entry
    lines[at] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n")
    journal = opened(path)
    if journal.note:
        assert journal.note.startswith(
            ("the journal of the interrupted build cannot be read: line", "changed since")
        )
        assert (journal.steps, journal.stage, path.exists()) == ({}, -1, False)
    else:  # of the right form after all
        assert all(isinstance(step, Finished) for step in journal.steps.values())


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 4096, b"\xff\xfe nonsense \x80", b"[" * 100_000 + b"\n", b"null\n", b"[]\n",
     b'{"format": 1, "trtcoder": "0.1.0"}\n', b"{}\n" * 3],
)  # fmt: skip
def test_a_file_that_is_no_journal_starts_over_with_a_word(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(data)
    journal = opened(path)
    assert journal.note
    assert journal.steps == {}
    journal.add([step("a")])
    assert set(opened(path).steps) == {"a"}


def a_folder(path: Path) -> None:
    (path / "inner").mkdir(parents=True)


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("make", [a_folder, a_dangling_link])
def test_what_cannot_be_read_is_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "journal.jsonl"
    make(path)
    journal = opened(path)
    assert "cannot be read" in journal.note
    journal.add([step("a")])
    assert set(opened(path).steps) == {"a"}


def test_lines_that_do_not_get_to_the_disk_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = written(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuildError, match=r"journal\.jsonl: cannot be written: No space"):
        journal.add([step("e")])
    monkeypatch.undo()
    assert path.read_bytes() == before
    journal.add([step("f")])
    assert set(opened(path).steps) == set("abcdf")
