"""Writing an engine's folder: replaced, interrupted, killed, raced for, and through a power cut."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundle.test_bundle import MANIFEST, leftovers, write
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest
from trtcoder.bundle.writer import BundleWriter
from trtcoder.errors import BuildError


def test_an_existing_engine_is_replaced_only_with_force(tmp_path: Path) -> None:
    write(tmp_path / "engine")
    with pytest.raises(BuildError, match="exists; pass --force"):
        write(tmp_path / "engine")
    write(tmp_path / "engine", force=True, graph=b"newer")
    assert Bundle.load(tmp_path / "engine").graph_path.read_bytes() == b"newer"
    assert leftovers(tmp_path) == []


def test_force_never_deletes_what_is_not_an_engine(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="not an engine folder"):
        write(tmp_path / "home", force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BuildError, match="not a folder"):
        write(tmp_path / "file", force=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BuildError, match="not a folder"):
        write(tmp_path / "dangling", force=True)
    assert (tmp_path / "home" / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["notes.txt", "sub/notes.txt"])
def test_force_never_deletes_what_an_engine_does_not_list(tmp_path: Path, name: str) -> None:
    write(tmp_path / "engine")
    notes = tmp_path / "engine" / name
    notes.parent.mkdir(exist_ok=True)
    notes.write_text("a user's own")
    with pytest.raises(BuildError, match=f"{name} is not of the engine"):
        BundleWriter(tmp_path / "engine", force=True).check()
    with pytest.raises(BuildError, match=f"{name} is not of the engine"):
        write(tmp_path / "engine", force=True)
    assert notes.read_text() == "a user's own"
    notes.unlink()
    write(tmp_path / "engine", force=True)


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "engine"


def with_a_file_for_a_workspace(folder: Path) -> Path:
    (folder / ".engine.partial").write_text("x")
    return folder / "engine"


def with_a_folder_for_a_lock(folder: Path) -> Path:
    (folder / ".engine.lock").mkdir()
    return folder / "engine"


@pytest.mark.parametrize(
    "target",
    [
        below_a_file,
        with_a_file_for_a_workspace,
        with_a_folder_for_a_lock,
        lambda folder: folder / ("n" * 250),
        lambda folder: Path("/"),
        lambda folder: Path("/proc/engine"),
    ],
)
def test_a_target_that_cannot_be_made_is_refused_by_name(
    tmp_path: Path, target: Callable[[Path], Path]
) -> None:
    with pytest.raises(BuildError, match=r"^/"):
        write(target(tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, BuildError])
def test_an_interrupted_write_without_notes_leaves_nothing_and_keeps_the_old_engine(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write(tmp_path / "engine")
    with (
        contextlib.suppress(error),
        BundleWriter(tmp_path / "engine", force=True) as writer,
    ):
        (writer.folder / "model.onnx").write_bytes(b"half")
        raise error
    assert Bundle.load(tmp_path / "engine").graph_path.read_bytes() == b"graph"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("note", ["journal.jsonl", "sensitivity.json"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, BuildError])
def test_what_is_left_is_named_with_its_size(
    tmp_path: Path, error: type[BaseException], note: str
) -> None:
    said: list[str] = []
    with (
        contextlib.suppress(error),
        BundleWriter(tmp_path / "engine", say=said.append) as writer,
    ):
        (writer.folder / "model.data").write_bytes(b"x" * 3_000_000)
        (writer.workspace / note).write_text("{}\n")
        raise error
    assert len(said) == 1
    assert f"{tmp_path}/.engine.partial keeps 3.0 MB" in said[0]
    assert "the same command goes on from there" in said[0]


def test_an_interruption_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        contextlib.suppress(KeyboardInterrupt),
        BundleWriter(tmp_path / "engine", say=said.append) as writer,
    ):
        (writer.folder / "model.data").write_bytes(b"x")
        raise KeyboardInterrupt
    assert said == ["interrupted before anything was finished; nothing is left"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_without_notes_is_removed(tmp_path: Path) -> None:
    for name in (".engine.partial", ".another.partial"):
        (tmp_path / name / "engine").mkdir(parents=True)
        (tmp_path / name / "engine" / "model.data").write_bytes(b"stale")
    manifest = write(tmp_path / "engine")
    assert "model.data" not in manifest.files
    assert leftovers(tmp_path) == [".another.partial"]


def test_what_a_killed_writer_noted_in_its_journal_is_kept(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), BundleWriter(tmp_path / "engine") as writer:
        (writer.folder / "model.onnx").write_bytes(b"graph")
        writer.journal.write_text("{}")
        raise RuntimeError
    with BundleWriter(tmp_path / "engine") as again:
        assert (again.folder / "model.onnx").read_bytes() == b"graph"
        again.commit(MANIFEST)
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "engine").iterdir()) != []


def test_a_journal_without_its_data_and_data_without_its_journal_are_not_believed(
    tmp_path: Path,
) -> None:
    workspace = tmp_path / ".engine.partial"
    workspace.mkdir()
    (workspace / "journal.jsonl").write_text("{}")
    with BundleWriter(tmp_path / "engine") as writer:
        assert not writer.journal.exists()
        # Notes of another kind keep the workspace, but not what is in the folder.
        (workspace / "sensitivity.json").write_text("{}")
        (writer.folder / "model.data").write_bytes(b"stale")
        (workspace / "stream.3.npy").write_bytes(b"stale")
    with BundleWriter(tmp_path / "engine") as writer:
        assert sorted(path.name for path in workspace.iterdir()) == ["engine", "sensitivity.json"]
        assert list(writer.folder.iterdir()) == []


def test_a_report_is_never_written_over_anything_without_force(tmp_path: Path) -> None:
    own = tmp_path / "engine.parity.json"
    own.write_text("mine")
    writer = BundleWriter(tmp_path / "engine")
    assert writer.leave_report("parity.json", "a") == tmp_path / "engine.parity.2.json"
    assert writer.leave_report("parity.json", "b") == tmp_path / "engine.parity.3.json"
    assert own.read_text() == "mine"
    forced = BundleWriter(tmp_path / "engine", force=True)
    assert forced.leave_report("parity.json", "c") == own
    assert own.read_text() == "c"


WAITING = (
    "import sys\nfrom trtcoder.bundle.writer import BundleWriter\n"
    "with BundleWriter(sys.argv[1]): print('writing', flush=True); sys.stdin.read()"
)


def test_one_target_has_one_writer_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "engine")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        with pytest.raises(BuildError, match="already writing"), BundleWriter(tmp_path / "engine"):
            pass
        assert (tmp_path / ".engine.partial" / "engine").is_dir()
        other.kill()
    # The lock ends with the process, however that ends.
    write(tmp_path / "engine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine"]


RACING = """
import contextlib, os, sys, time
from pathlib import Path
from tests.bundle.test_bundle import MANIFEST
from trtcoder.bundle.writer import BundleWriter
from trtcoder.errors import BuildError

folder, me = Path(sys.argv[1]), sys.argv[2]
written = 0
while written < 4:
    try:
        with BundleWriter(folder / "engine", force=True) as writer:
            inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
            for name in "abc":
                (writer.folder / name).write_text(me)
            if written % 3:
                writer.journal.write_text("{}")
            os.unlink(folder / "inside")
            os.close(inside)
            if written % 3 != 1:
                writer.commit(MANIFEST)
                inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
                os.unlink(folder / "inside")
                os.close(inside)
        written += 1
    except BuildError as error:
        assert "already writing" in str(error), error
        time.sleep(0.001)
"""


def test_writers_that_race_never_write_at_the_same_time(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACING, str(tmp_path), str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root,
        )
        for number in range(4)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [error for _, error in outputs if error] == []
    assert [process.returncode for process in processes] == [0] * 4
    bundle = Bundle.load(tmp_path / "engine")
    assert len({(bundle.folder / name).read_text() for name in "abc"}) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"engine", ".engine.partial"}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.bundle.test_bundle import write

target = Path(sys.argv[1]) / "engine"

def run(at):
    count = 0

    def counted(call):
        def made(*arguments, **options):
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return made

    for name in ("open", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "close"):
        setattr(os, name, counted(getattr(os, name)))
    write(target, force=True, graph=b"newer")

at, killed = 0, True
while killed:
    at += 1
    write(target, force=True, graph=b"older")
    child = os.fork()
    if not child:
        run(at)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.wait()[1]) != 0
    # Every build in a container has the same process id: nothing may follow from it.
    child = os.fork()
    if not child:
        try:
            write(target, graph=b"third")
            os._exit(3)  # an engine was there, and nobody said --force
        except Exception as error:
            found = (target / "model.onnx").read_bytes()
            os._exit(0 if "pass --force" in str(error) and found in (b"older", b"newer") else 4)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    assert status == 0, (at, status)
    left = {path.name for path in target.parent.iterdir()}
    assert left <= {"engine", ".engine.partial", ".engine.lock"}, (at, left)
print(at)
"""


def test_a_writer_killed_at_any_call_leaves_the_old_engine_or_the_new_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert result.returncode == 0, result.stderr
    # Up to the end: opens, renames, syncs and removals of one replacement.
    assert int(result.stdout) > 20
    assert Bundle.load(tmp_path / "engine").graph_path.read_bytes() == b"newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine"]


def test_an_engine_set_aside_is_never_dropped_for_something_else(tmp_path: Path) -> None:
    write(tmp_path / "engine")
    os.rename(tmp_path / "engine", tmp_path / ".engine.replaced")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="not an engine folder"):
        write(tmp_path / "engine", force=True)
    assert Bundle.load(tmp_path / ".engine.replaced")
    assert (tmp_path / "engine" / "thesis.txt").exists()


def test_all_is_on_the_disk_before_the_engine_appears_and_before_the_journal_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    def synced(descriptor: int) -> None:
        calls.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        calls.append(("rename", str(target)))
        rename(source, target)

    def unlinked(path: str | Path, **options: int) -> None:
        calls.append(("unlink", str(path)))
        unlink(path, **options)

    write(tmp_path / "new" / "engine")
    with BundleWriter(tmp_path / "new" / "engine", force=True) as writer:
        (writer.folder / "inner").mkdir()
        for name in ("model.onnx", "tokenizer.json", "inner/model.data"):
            (writer.folder / name).write_text(name)
        writer.journal.write_text("{}")
        for name, call in (("fsync", synced), ("rename", renamed), ("unlink", unlinked)):
            monkeypatch.setattr(os, name, call)
        writer.commit(MANIFEST)
        monkeypatch.undo()
    folder, target = writer.folder, writer.target
    names = [path.relative_to(target).as_posix() for path in target.rglob("*")]
    assert {"inner", "inner/model.data", "manifest.json"} <= set(names)
    appears = calls.index(("rename", str(target)))
    for path in (folder, *(folder / name for name in names)):
        assert calls.index(("sync", str(path))) < appears, path
    assert calls.index(("sync", str(folder / "inner/model.data"))) < calls.index(
        ("sync", str(folder / "inner"))
    )
    goes = calls.index(("unlink", str(writer.journal)))
    assert appears < calls.index(("sync", str(target.parent)), appears) < goes


def test_a_disk_that_fills_up_while_the_engine_is_completed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def written() -> Manifest:
        with BundleWriter(tmp_path / "engine") as writer:
            (writer.folder / "model.onnx").write_bytes(b"graph")
            writer.journal.write_text("{}")
            monkeypatch.setattr(os, "fsync", full)
            return writer.commit(MANIFEST)

    with pytest.raises(BuildError, match=r"engine: no space is left; make room"):
        written()
    monkeypatch.undo()
    assert not (tmp_path / "engine").exists()
    assert (tmp_path / ".engine.partial" / "engine" / "model.onnx").exists()
