"""How many cores are used: affinity, hardware threads, and the quotas of control groups."""

from __future__ import annotations

import math
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines import build_engine, write_checkpoint
from trtcoder.cores import available_cores, library_threads
from trtcoder.testing.random_checkpoint import tiny_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores, all of which this process may run on."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_hardware_threads_of_one_core_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    nowhere = tmp_path / "nowhere"
    assert available_cores(nowhere, nowhere, nowhere) == 4
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        write(tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list", f"{siblings}\n")
    assert available_cores(tmp_path, nowhere, nowhere) == 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2}, raising=False)
    assert available_cores(tmp_path, nowhere, nowhere) == 1


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        pytest.param("0::/", {"cpu.max": "200000 100000"}, 2, id="container, version 2"),
        pytest.param("0::/a/b", {"a/b/cpu.max": "90000 100000"}, 1, id="own group"),
        pytest.param("0::/a/b", {"a/cpu.max": "350000 100000"}, 4, id="group above"),
        pytest.param(
            "0::/a/b", {"a/cpu.max": "350000 100000", "a/b/cpu.max": "max 100000"}, 4, id="max"
        ),
        pytest.param(
            "3:cpu,cpuacct:/docker/x\n0::/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
            id="container, version 1, named as outside",
        ),
        pytest.param(
            "9:memory:/m\n3:cpu:/x/y",
            {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "10000",
             "cpu/x/y/cpu.cfs_quota_us": "-1", "cpu/x/y/cpu.cfs_period_us": "10000"},
            5,
            id="version 1, group above",
        ),
        pytest.param("0::/s", {"unified/s/cpu.max": "300000 100000"}, 3, id="both versions"),
        pytest.param("0::/../other", {"cpu.max": "max 100000"}, 64, id="outside the container"),
        pytest.param("0::/", {"cpu.max": "nonsense"}, 64, id="unknown form"),
        pytest.param("", {}, 64, id="no control groups"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("many")
def test_the_smallest_quota_counts(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        write(tmp_path / "groups" / name, f"{text}\n")
    write(tmp_path / "membership", membership)
    groups, member = tmp_path / "groups", tmp_path / "membership"
    assert available_cores(tmp_path / "cpus", groups, member) == cores


@given(
    affinity=st.integers(1, 256),
    quotas=st.lists(st.tuples(st.integers(1000, 10**8), st.integers(1000, 10**6)), max_size=4),
)
def test_cores_are_at_least_one_and_within_every_limit(
    tmp_path_factory: pytest.TempPathFactory, affinity: int, quotas: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("groups")
    parts = [f"group{index}" for index in range(len(quotas))]
    for index, (quota, period) in enumerate(quotas):
        write(folder.joinpath(*parts[: index + 1], "cpu.max"), f"{quota} {period}\n")
    write(folder / "membership", f"0::/{'/'.join(parts)}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        found = available_cores(folder / "cpus", folder, folder / "membership")
    limits = [affinity, *(math.ceil(quota / period) for quota, period in quotas)]
    assert found == min(limits)


def test_libraries_are_kept_to_the_cores_and_set_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info()] + [torch.get_num_threads()]

    before = threads()
    torch.set_num_threads(6)
    monkeypatch.setattr("trtcoder.cores.available_cores", lambda: 1)
    with library_threads():
        assert set(threads()) == {1}
    assert torch.get_num_threads() == 6
    torch.set_num_threads(before[-1])
    assert threads() == before


@pytest.mark.usefixtures("many")
def test_a_container_of_two_cores_on_a_machine_of_64_builds_with_as_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "groups" / "cpu.max", "200000 100000\n")
    write(tmp_path / "membership", "0::/\n")
    for name, place in (("CGROUPS", "groups"), ("MEMBERSHIP", "membership"), ("CPUS", "cpus")):
        monkeypatch.setattr(f"trtcoder.cores._{name}", tmp_path / place)
    start, counts = threading.Thread.start, [0]

    def counted(thread: threading.Thread) -> None:
        start(thread)
        counts.append(threading.active_count())

    monkeypatch.setattr(threading.Thread, "start", counted)
    before = threading.active_count()
    source = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    build_engine(source, tmp_path / "engine", "int4")
    # Two workers a core, and one thread each for the journal and the hash.
    assert 2 <= max(counts) - before <= 6


def test_no_pool_asks_for_cores_on_its_own() -> None:
    own = re.compile(r"cpu_count\(|ThreadPoolExecutor\(\)|process_cpu_count")
    folders = ("src/trtcoder", "export", "calib", "runtime", "benchmarks")
    found = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if own.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["src/trtcoder/cores.py"]
