from __future__ import annotations

import mmap
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtcoder.runtime.engine import mapped_pages
from trtcoder.runtime.engine.mapped_pages import enter_pages

SIZE = 8 << 20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").is_file(), reason="page tables are told by Linux's /proc"
)


class Owner:
    pass


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    """A file of which this process has mapped all, and read nothing."""
    path = tmp_path / "model data"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        yield path


def entered(path: Path) -> int:
    """Return the bytes of the file's mapping that are in the page tables."""
    mapping = re.search(
        rf" {re.escape(str(path))}\n.*?^Rss: +(\d+) kB",
        Path("/proc/self/smaps").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert mapping is not None
    return int(mapping[1]) * 1024


def test_every_page_is_entered_and_of_no_other_file(weights: Path, tmp_path: Path) -> None:
    owner = Owner()
    enter_pages([tmp_path / "another"], owner).join()
    assert entered(weights) == 0
    enter_pages([tmp_path / "another", weights], owner).join()
    assert entered(weights) == SIZE


def test_nothing_is_entered_where_memory_is_short(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner()
    for room in (SIZE - 1, None):
        monkeypatch.setattr(mapped_pages, "available_memory", lambda room=room: room)
        enter_pages([weights], owner).join()
        assert entered(weights) == 0


def test_it_ends_with_what_owns_the_mapping(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    def room() -> int:
        gone.wait()
        return 2 * SIZE

    monkeypatch.setattr(mapped_pages, "available_memory", room)
    owner = Owner()
    thread = enter_pages([weights], owner)
    del owner
    gone.set()
    thread.join()
    assert entered(weights) == 0
