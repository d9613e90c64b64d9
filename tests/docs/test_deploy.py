"""What is in deploy/ agrees with the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trtcoder.commands.serve import serve

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "trtcoder.service"])
def test_options_exist(name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8")
    known = {option for each in serve.params for option in each.opts}
    starts = ("CMD", "ExecStart")
    lines = [line for line in text.splitlines() if line.startswith(starts)]
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert used <= known, used - known
    names = {each.name for each in serve.params}
    for variable in re.findall(r"TRTCODER_SERVE_([A-Z_]+):", text):
        assert variable.lower() in names
