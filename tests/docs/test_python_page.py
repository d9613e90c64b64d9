"""The blocks of docs/python.md run, one after another."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.toy_engine import toy_manifest, write_toy_engine
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[str(index) for index in range(len(BLOCKS))])
def test_a_block_of_the_page_runs(block: str, tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, max_positions=4096)
    engine = write_toy_engine(tmp_path / "engine", dataclasses.replace(toy_manifest(), model=model))
    names: dict[str, object] = {"ENGINE": str(engine), "__name__": "__main__"}
    if "CHECKPOINT" in block:
        checkpoint = write_random_checkpoint(tmp_path / "checkpoint", tiny_config())
        names |= {"CHECKPOINT": checkpoint, "OUT": tmp_path / "built"}
    exec(compile(block, str(PAGE), "exec"), names)


def test_the_page_has_blocks() -> None:
    assert len(BLOCKS) == 5
