from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy_engine import write_toy_engine
from trtcoder.bundle.attachment import attach
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.lock import FileLock
from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import EngineError


def test_an_added_file_is_hashed_and_the_engine_stays_itself(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "toy")
    before = Bundle.load(folder).manifest
    attach(folder, "eval.json", "{}\n")
    after = Bundle.load(folder).manifest
    assert after.files.keys() - before.files.keys() == {"eval.json"}
    assert after.computing_digest() == before.computing_digest()
    (folder / "eval.json").write_text("{ }\n")
    with pytest.raises(EngineError, match=r"eval.json has 4 bytes, expected 3"):
        Bundle.load(folder)


def test_a_file_is_replaced(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "toy")
    attach(folder, "eval.json", "one")
    attach(folder, "eval.json", "another")
    assert Bundle.load(folder).path("eval.json").read_text() == "another"


def test_what_decides_an_answer_changes_the_digest(tmp_path: Path) -> None:
    one = Bundle.load(write_toy_engine(tmp_path / "one")).manifest
    other = Bundle.load(write_toy_engine(tmp_path / "other", scripted={1: 2})).manifest
    assert one.computing_digest() != other.computing_digest()


def test_a_later_version_with_more_fields_finds_the_same_digest(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Later(Manifest):
        more: bool = True

    before = Bundle.load(write_toy_engine(tmp_path / "toy")).manifest
    fields = {each.name: getattr(before, each.name) for each in dataclasses.fields(before)}
    assert Later(**fields).computing_digest() == before.computing_digest()
    assert Later(**fields, more=False).computing_digest() != before.computing_digest()


@pytest.mark.parametrize("step", range(1, 8))
def test_an_engine_loads_whenever_its_writer_is_killed(tmp_path: Path, step: int) -> None:
    folder = write_toy_engine(tmp_path / "toy")
    attach(folder, "eval.json", "first")
    # Killed at the so manieth time that a file gets its name.
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from trtcoder.bundle.attachment import attach\n"
        "left, real = [int(sys.argv[2])], os.replace\n"
        "def replace(*names):\n"
        "    left[0] -= 1\n"
        "    if left[0] == 0: os._exit(9)\n"
        "    real(*names)\n"
        "    left[0] -= 1\n"
        "    if left[0] == 0: os._exit(9)\n"
        "os.replace = replace\n"
        "attach(Path(sys.argv[1]), 'eval.json', 'second, longer')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, folder, str(step)], check=False)
    assert done.returncode == (9 if step < 7 else 0)
    found = Bundle.load(folder)
    if "eval.json" in found.manifest.files:
        assert found.path("eval.json").read_text() in ("first", "second, longer")
    attach(folder, "eval.json", "third")
    assert Bundle.load(folder).path("eval.json").read_text() == "third"


def test_an_engine_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "toy")
    lock = FileLock(tmp_path / ".toy.lock")
    assert lock.acquire()
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from trtcoder.bundle.attachment import attach\n"
        "from trtcoder.errors import EngineError\n"
        "try: attach(Path(sys.argv[1]), 'eval.json', 'x')\n"
        "except EngineError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True
    )
    lock.release()
    assert "a build is writing it" in done.stdout
