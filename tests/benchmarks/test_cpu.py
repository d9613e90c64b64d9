from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.cpu import best_settings, ours, settings, summary, table
from benchmarks.cpu_limits import LiteNeeds
from benchmarks.cpu_llama import repeated
from benchmarks.cpu_names import INT8, KERNELS, STOCK
from benchmarks.cpu_runs import Program, Runs
from benchmarks.cpu_tables import cpu_table, goals_table
from benchmarks.cpu_work import DECODE_STEPS, WARM, Work, all_work, tokens_per_second


def test_every_row_has_a_name_of_its_own_and_is_found_by_it() -> None:
    works = list(all_work())
    assert len({work.name for work in works}) == len(works)
    assert [Work.read(work.name) for work in works] == works


def test_steps_are_counted_once_and_behind_each_other() -> None:
    seen: list[int] = []
    assert tokens_per_second(Work(4, 64), seen.append) > 0
    assert seen == list(range(WARM + DECODE_STEPS))


def test_a_short_state_of_llama_cpp_becomes_a_long_one() -> None:
    def state(cells: int, rows: list[bytes]) -> bytes:
        places = b"".join(struct.pack("<iIi", position, 1, 0) for position in range(cells))
        layers = b"".join(struct.pack("<IQ", 7, 2) + row for row in rows)
        return (
            struct.pack("<III", 1, 0, 1) + struct.pack("<I", cells) + places
            + struct.pack("<II", 0, len(rows)) + layers + b"end"
        )  # fmt: skip

    short = state(2, [b"aabb", b"ccdd"])
    assert repeated(short, 5) == state(5, [b"aabbaabbaa", b"ccddccddcc"])
    assert repeated(short, 2) == short


def found(speed: float) -> dict[str, Any]:
    """Return what a run of a program prints."""
    return {
        "speeds": dict.fromkeys(ROWS, speed), "runs_on": "trtcoder's kernels, avx512",
        "load_seconds": 0.1, "peak_rss_mb": 100,
    }  # fmt: skip


def program(name: str, folder: Path, speed: float) -> Program:
    """Return a program that counts how often it ran."""
    script = folder / "program_of_a_test.py"
    count = folder / "count"
    script.write_text(
        "import json, pathlib, sys\n"
        f"path = pathlib.Path({str(count)!r})\n"
        "path.write_text(path.read_text() + sys.argv[1] if path.exists() else sys.argv[1])\n"
        f"print(json.dumps({found(1.0)!r} | "
        "{'speeds': dict.fromkeys(sys.argv[2:], float(sys.argv[1]))}))\n"
    )
    environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    return Program(name, ("program_of_a_test", str(speed)), (script,), "1", environment)


ROWS = ["decode at 0", "prefill 512"]
PEERS = ["llama.cpp Q4_0", "llama.cpp Q4_K_M"]


def test_a_benchmark_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    fast, count = program(KERNELS, tmp_path, 2), tmp_path / "count"
    first = Runs(tmp_path / "runs", minutes=1).run(fast, "round 1", ROWS)
    assert first is not None
    assert first["speeds"] == dict.fromkeys(ROWS, 2.0)
    runs = Runs(tmp_path / "runs", minutes=1)
    assert runs.run(fast, "round 1", ROWS) == first
    assert count.read_text() == "2"
    # Other rows, or another build, are measured anew.
    runs.run(fast, "round 1", ROWS[:1])
    runs.run(dataclasses.replace(fast, revision="2"), "round 1", ROWS)
    assert count.read_text() == "222"
    runs.forget("round")
    assert Runs(tmp_path / "runs", minutes=0).run(fast, "round 1", ROWS) is None


def test_a_run_that_fails_is_told_and_does_not_end_the_benchmark(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs", minutes=1)
    absent = Program(PEERS[0], ("benchmarks.no_such_module",), (), "1")
    assert "ended with 1" in (runs.run(absent, "round 1", ROWS) or {})["failed"]
    mine, peer = program(KERNELS, tmp_path, 3), program(PEERS[1], tmp_path, 2)
    for each in (mine, peer):
        assert runs.run(each, "round 1", ROWS)
    result = summary(runs, [mine, absent, peer], ROWS, rounds=2)
    assert result["rounds"] == 1
    assert result["failed"] == {PEERS[0]: "ended with 1"}
    assert result["ratio_to_best_of_llama_cpp"] == {KERNELS: dict.fromkeys(ROWS, 1.5)}


def test_the_settings_that_are_best_somewhere_take_part(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs", minutes=1)
    speeds = {"llama.cpp A": (3.0, 1.0), "llama.cpp B": (1.0, 3.0), "llama.cpp C": (2.0, 2.0)}
    peers = [Program(name, ("absent",), (), "1") for name in speeds]
    for name, each in speeds.items():
        made = {"speeds": dict(zip(ROWS, each, strict=True)), "revision": "1", "rows": ROWS}
        runs.kept["settings", name] = made
    assert [peer.name for peer in best_settings(runs, peers, ROWS)] == [
        "llama.cpp A",
        "llama.cpp B",
    ]


def result_of(speeds: dict[str, tuple[float, float]]) -> dict[str, Any]:
    ours = speeds[KERNELS]
    best = [max(each[i] for name, each in speeds.items() if name in PEERS) for i in range(2)]
    ratios = {row: ours[i] / best[i] for i, row in enumerate(ROWS)}
    return {
        "layers": 27, "rounds": 2, "runs_on": "trtcoder's kernels, avx512",
        "environment": {"cpu": "a processor", "cores": 2},
        "tokens_per_second": {n: dict(zip(ROWS, each, strict=True)) for n, each in speeds.items()},
        "ratio_to_best_of_llama_cpp": {KERNELS: ratios, INT8: ratios}, "failed": {},
        "load_seconds": dict.fromkeys(speeds, 0.5), "peak_rss_mb": dict.fromkeys(speeds, 1000),
        "peaks": {"read": 2e10, "int8": {"avx512": 1e12}}, "engine_bytes": 10**9,
        "gguf_bytes": {"Q4_0": 10**9, "Q4_K_M": 10**9},
        "limits": {row: {"limit": 4.0, "by": "memory", "share": 0.75} for row in ROWS},
    }  # fmt: skip


def test_the_tables_name_the_best_setting_and_say_what_was_missed() -> None:
    speeds = {KERNELS: (3.0, 3.0), INT8: (3.0, 3.0), STOCK: (2.0, 2.0),
              PEERS[0]: (1.0, 4.0), PEERS[1]: (2.0, 1.0)}  # fmt: skip
    result = result_of(speeds)
    _, first, second = table(ROWS, result)
    assert first.endswith("Q4_K_M")
    assert second.endswith("Q4_0")
    goals = goals_table(result).splitlines()
    assert any(line.startswith("| decode at 0 |") and "≥ 1.1: met" in line for line in goals)
    assert any(line.startswith("| prefill 512 |") and "≥ 5: **missed**" in line for line in goals)
    result["ratio_to_best_of_llama_cpp"][INT8] = {"decode at 0": 1.0, "prefill 512": 6.0}
    goals = goals_table(result).splitlines()
    assert any(line.endswith("≥ 5: met with an int8 cache |") for line in goals)
    assert "75%" in cpu_table(result)


def test_a_limit_is_told_and_has_goals_of_its_own() -> None:
    speeds = {KERNELS: (3.0, 3.0), INT8: (3.0, 3.0), PEERS[0]: (2.0, 1.0), PEERS[1]: (1.0, 1.0)}
    result = result_of(speeds) | {"runs_on": "trtcoder's kernels, avx2", "limited_to": "avx2"}
    heading, *lines = goals_table(result).splitlines()
    assert "both programs limited to avx2" in heading
    assert any(line.startswith("| decode at 0 |") and "≥ 1.35: met" in line for line in lines)
    assert any(line.startswith("| prefill 512 |") and "≥ 2.6: met" in line for line in lines)


def test_limited_programs_are_told_and_measured_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Files:
        def gguf(self, kind: str) -> Path:
            return Path(__file__).with_name("test_cpu.py")

        def engine(self, cache: str = "fp32") -> Path:
            return Path("engine")

    monkeypatch.setattr("benchmarks.cpu._has_amx", lambda: True)
    library = SimpleNamespace(path=Path(__file__))
    monkeypatch.setattr("benchmarks.cpu.open_library", lambda: library)
    files: Any = Files()
    peers = {isa: settings(files, ["Q4_0"], isa) for isa in (None, "avx2")}
    mine = {isa: ours(files, with_int8=True, with_stock=True, isa=isa) for isa in (None, "avx2")}
    assert len(peers[None]) == 6
    assert len(peers["avx2"]) == 4
    assert {each.command[-1] for each in peers["avx2"]} == {"avx2"}
    assert all(each.environment["TRTCODER_ISA"] == "avx2" for each in mine["avx2"])
    assert not any("TRTCODER_ISA" in each.environment for each in mine[None])
    # What was measured without a limit does not count.
    for names in (mine, peers):
        revisions = {isa: {each.revision for each in found} for isa, found in names.items()}
        assert not revisions[None] & revisions["avx2"]


def test_what_a_step_needs_follows_from_the_shapes() -> None:
    needs = LiteNeeds(27)
    one, many = needs.of(Work(1, 0)), needs.of(Work(16, 0))
    # 2.45 thousand million weights a token, in 4.5 bits and a little more.
    assert 1.3e9 < one.nbytes < 1.6e9
    assert 4.8e9 < one.operations < 5.3e9
    # Experts that several tokens share are read once.
    assert one.nbytes < many.nbytes < 16 * one.nbytes
    assert many.operations == pytest.approx(16 * one.operations)
    longer = needs.of(Work(1, 8192))
    assert longer.nbytes - one.nbytes == pytest.approx(8192 * 27 * 576 * 4)
