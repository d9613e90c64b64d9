from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.evaluation.cells import cell
from trtcoder.evaluation.sandbox.sandbox import Ending, Limits, Sandbox

LOOP = "while True:\n    pass\n"
# Bytes a file, and this process's own: they stand in the command line of each process of a cell.
MARKED = (1 << 24) + 4 * os.getpid()
SLEEP = "import time\ntime.sleep(100_000)\n"


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("source", "status", "complaint"),
    [
        ("x = 1\nassert x == 1\n", "passed", ""),
        ("assert 1 == 2, 'no'", "failed", "AssertionError: no"),
        ("def f(:", "failed", "SyntaxError: invalid syntax"),
        ("x = bytearray(4 << 30)", "out of memory", "MemoryError"),
        ("def f(): f()\nf()", "failed", "RecursionError"),
    ],
)
def test_a_program_passes_where_it_runs_to_its_end(
    source: str, status: str, complaint: str, trusted: bool
) -> None:
    box = Sandbox(trusted=True) if trusted else cell()
    ending = box.run(source)
    assert ending.status == status
    assert ending.complaint.startswith(complaint)


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "print('passed'); import os; os._exit(0)",
        "import os\nfor n in range(1, 64):\n  try: os.write(n, b'passed')\n  except OSError: pass\n"
        "os._exit(0)",
        # Both go on to the end: a verdict that is told twice is none.
        "import os\nif os.fork(): os.wait()",
    ],
)
def test_a_program_that_ends_early_or_writes_to_its_judge_has_not_passed(source: str) -> None:
    assert cell().run(source).status == "failed"


def test_leaving_is_an_end_where_programs_may_leave() -> None:
    box = cell()
    assert box.run("print(1); exit(0)", may_exit=True).passed
    assert not box.run("print(1); exit(1)", may_exit=True).passed


def test_a_program_reads_its_input_and_its_output_is_kept() -> None:
    ending = cell().run("print(input()[::-1])", "abc\n")
    assert ending.printed == "cba\n"


@pytest.mark.parametrize("trusted", [False, True])
def test_a_loop_ends_by_the_processors_time(trusted: bool) -> None:
    limits = Limits(cpu_seconds=1)
    box = Sandbox(limits, trusted=True) if trusted else cell(cpu_seconds=1)
    assert box.run(LOOP).status == "out of time"


@pytest.mark.parametrize("trusted", [False, True])
def test_sleep_ends_by_the_clock(trusted: bool) -> None:
    box = Sandbox(Limits(wall_seconds=1), trusted=True) if trusted else cell(wall_seconds=1)
    assert box.run(SLEEP).status == "out of time"


def test_a_program_that_forks_is_stopped_and_none_of_its_children_stays() -> None:
    bomb = (
        "import os, time\n"
        "children = 0\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            time.sleep(100_000)\n"
        "    except OSError:\n"
        "        break\n"
        "    children += 1\n"
        "print(children)\n"
    )
    marked = MARKED
    ending = cell(file_bytes=marked).run(bomb)
    assert ending.passed
    assert 0 < int(ending.printed) < 16
    assert _are_gone(marked)


def test_children_of_a_program_that_is_ended_do_not_stay() -> None:
    marked = MARKED + 1
    source = f"import os\nos.fork()\nos.setsid() if os.getpid() > 1 else 0\n{SLEEP}"
    assert cell(file_bytes=marked, wall_seconds=2).run(source).status == "out of time"
    assert _are_gone(marked)


def test_a_program_cannot_kill_or_see_its_judge() -> None:
    source = (
        f"import os\ntry:\n    os.kill({os.getpid()}, 9)\nexcept ProcessLookupError:\n    pass\n"
        f"else:\n    raise AssertionError('it can')\n"
        "assert os.getpid() == 1\n"
        "try:\n    os.kill(-1, 9)\nexcept ProcessLookupError:\n    pass\n"
        "assert not os.path.exists('/proc/1')\n"
    )
    assert cell().run(source) == Ending("passed")


def test_a_program_sees_no_files_and_leaves_none(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    source = (
        "import os, shutil\n"
        f"assert not os.path.exists({str(tmp_path)!r})\n"
        "assert not os.path.exists('/etc/passwd')\n"
        "for path in ('/usr', '/tmp', '/'):\n"
        "    shutil.rmtree(path, ignore_errors=True)\n"
        "import decimal\n"  # Python is still there
        "open('/tmp/left', 'w').write('x')\n"
    )
    before = set(Path("/tmp").glob("left*"))
    ending = cell().run(source)
    assert ending == Ending("passed")
    assert mine.read_text() == "kept"
    assert set(Path("/tmp").glob("left*")) == before
    assert Path("/usr/lib").exists()


@pytest.mark.parametrize(
    "source",
    [
        "open('/tmp/big', 'wb').write(bytes(32 << 20))",
        "for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(8 << 20))",
        "files = [open('/dev/null') for _ in range(1000)]",
    ],
)
def test_a_program_cannot_fill_the_disk_or_the_table_of_files(source: str) -> None:
    ending = cell().run(source)
    assert ending.status == "failed"
    assert ending.complaint.startswith("OSError")


def test_what_a_program_prints_without_end_is_bounded() -> None:
    ending = cell(cpu_seconds=20).run("while True:\n    print('x' * 4096)\n")
    assert not ending.passed
    assert len(ending.printed) <= 1 << 20


def test_a_program_reaches_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        ending = cell().run(source)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert ending.complaint == "OSError: [Errno 101] Network is unreachable"


def test_a_program_has_nothing_of_the_judges_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTCODER_API_KEY", "secret")
    source = "import os; assert 'secret' not in os.environ.values()"
    assert cell().run(source).passed
    assert Sandbox(trusted=True).run(source).passed


def test_a_program_has_no_rights_in_its_cell() -> None:
    source = (
        "import ctypes, os\n"
        "assert os.getuid() != 0\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) != 0\n"
        "assert libc.umount2(b'/usr', 2) != 0\n"
        "assert libc.chroot(b'/tmp') != 0\n"
    )
    assert cell().run(source) == Ending("passed")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare of util-linux")
def test_a_host_without_the_means_is_refused() -> None:
    # In a user namespace that may have no others.
    script = (
        "from trtcoder.errors import EvaluationError\n"
        "from trtcoder.evaluation.sandbox.sandbox import Sandbox\n"
        "assert Sandbox(trusted=True).run('x = 1').passed\n"
        "try:\n    Sandbox().check()\nexcept EvaluationError as error:\n    print(error)\n"
    )
    shell = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "-Ur", "sh", "-c", shell, "sh", sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode and "unshare" in result.stderr:
        pytest.skip(result.stderr)
    assert "cannot be shut in on this host" in result.stdout, result.stderr
    assert "--trust-generated-code" in result.stdout


def test_programs_that_run_are_ended_together() -> None:
    box = cell()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(box.run, SLEEP) for _ in range(2)]
        box.stop()
        assert [each.result().passed for each in running] == [False, False]


def test_a_judge_that_is_killed_leaves_no_program_behind() -> None:
    cell()
    marked = MARKED + 2
    script = (
        "from trtcoder.evaluation.sandbox.sandbox import Limits, Sandbox\n"
        f"Sandbox(Limits(file_bytes={marked})).run({SLEEP!r})\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", script])
    try:
        # By then the program itself runs, and not only what makes its cell.
        while not any("cell.py" not in command for command in _running(marked)):
            assert judge.poll() is None
    finally:
        judge.send_signal(signal.SIGKILL)
        judge.wait()
    assert _are_gone(marked)


def _are_gone(marked: int) -> bool:
    """Tell whether none is left; what has been killed may take a moment to end."""
    ends = time.monotonic() + 10
    while _running(marked):
        if time.monotonic() > ends:
            return False
    return True


def _running(marked: int) -> list[str]:
    """Return the commands of all processes that have a number in theirs, but the judge's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_text(errors="replace").replace("\0", " "))
    return [each for each in found if str(marked) in each and "Sandbox(" not in each]
