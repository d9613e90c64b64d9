"""Progress that fits any terminal and any log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from trtcoder.progress import LogLines, bar, byte_progress, step_progress

NAME = "layers.26/moe/experts/gate_up[63], of model-00004-of-000004.safetensors, [bold]not bold"


@pytest.mark.parametrize("unit", ["bytes", "tokens", ""])
@pytest.mark.parametrize("width", [30, 40, 60, 80, 81, 200])
def test_a_bar_is_one_line_at_every_width(width: int, unit: str) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    with bar("measuring what each class loses", 31_410_000_000, unit=unit, console=console) as go:
        for share in (1, 10_000_000_000, 21_409_999_999):
            go(share, NAME)
    text = file.getvalue()
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", text).replace("\n", "\r").split("\r")
    assert max(map(len, frames)) <= width
    # A second line would have to be climbed over again to draw the next frame.
    assert "\x1b[1A" not in text
    assert "[bold]" in text or width < 120


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    go = LogLines("converting", 10_000_000_000, "bytes", clock=lambda: now)
    for second in range(101):
        now = float(second)
        go(100_000_000 if second else 0, f"layer\x1b[2J {second}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["10", "40", "70", "100"]
    assert lines[0] == (
        "converting: 10%, 1.0 of 10.0 GB, 90 s left; layer\N{REPLACEMENT CHARACTER}[2J 10"
    )


def test_what_is_quick_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with byte_progress("hashing", 0) as go, step_progress("verifying", 3) as step:
        go(0, "")
        for _ in range(4):
            step(1, "more steps than were foreseen")
    assert capsys.readouterr().err == ""
