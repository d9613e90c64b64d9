from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trtcoder.commands import prompt_progress
from trtcoder.commands.prompt_progress import PromptProgress
from trtcoder.runtime.requests.events import Progress


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.1, []), (2.0, ["reading the prompt of 40000", 2000, 1000])],
)
def test_a_prompt_that_takes_long_gets_a_bar_from_its_second_part_on(
    monkeypatch: pytest.MonkeyPatch, seconds: float, shown: list[object]
) -> None:
    found: list[object] = []

    @contextmanager
    def step_progress(title: str, total: int, **_: object) -> Iterator[object]:
        found.append(f"{title} of {total}")
        yield lambda amount, item: found.append(amount)
        found.append("gone")

    monkeypatch.setattr(prompt_progress, "step_progress", step_progress)
    now = 0.0
    with PromptProgress(lambda: now) as progress:
        for computed in range(6000, 46_000, 1000):
            progress(Progress(computed, 45_000, 5000))
            now += seconds / 20  # a thousand tokens in 5 or 100 ms
        assert found[: len(shown)] == shown
        assert found[-1:] == (["gone"] if shown else [])
