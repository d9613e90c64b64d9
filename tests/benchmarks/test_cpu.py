from __future__ import annotations

import struct

from benchmarks.cpu import KERNELS, STOCK, table
from benchmarks.cpu_llama import repeated
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


def test_the_table_names_the_best_setting_of_each_row() -> None:
    peers = ["llama.cpp A", "llama.cpp B"]
    speeds = {
        KERNELS: {"x": 3.0, "y": 3.0},
        STOCK: {"x": 2.0, "y": 2.0},
        peers[0]: {"x": 1.0, "y": 4.0},
        peers[1]: {"x": 2.0, "y": 1.0},
    }
    _, first, second = table(["x", "y"], speeds, {"x": 1.5, "y": 0.75}, peers)
    assert first.endswith("1.50  B")
    assert second.endswith("0.75  A")
