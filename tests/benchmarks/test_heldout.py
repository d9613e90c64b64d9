from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.heldout import CHOOSING_TOKENS, SHARED_TOKENS, HeldoutParts, split_heldout
from trtcoder.calib.text.heldout import load_heldout
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.recipe import preset
from trtcoder.export.request import BuildRequest
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.source import read_prompting

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return read_prompting(Checkpoint.open(DEMO)).prompts()


@pytest.fixture(scope="module")
def parts(prompts: Prompts) -> HeldoutParts:
    return split_heldout(prompts)


def test_every_sequence_is_in_one_part(parts: HeldoutParts, prompts: Prompts) -> None:
    together = [*parts.choosing, *parts.judging, *parts.dropped]
    every = load_heldout(prompts, 1 << 20)
    assert len(set(together)) == len(together)
    assert set(together) == set(every)


def test_what_a_build_prints_is_not_judged_again(parts: HeldoutParts, prompts: Prompts) -> None:
    default = BuildRequest(preset("int4")).tokens
    seen = load_heldout(prompts, default)
    assert 0 < default <= CHOOSING_TOKENS
    assert set(seen) <= set(parts.choosing)


def test_no_passage_of_the_judging_part_was_chosen_by(parts: HeldoutParts) -> None:
    windows = [
        {
            sequence.ids[start : start + SHARED_TOKENS]
            for sequence in part
            for start in range(len(sequence.ids) - SHARED_TOKENS + 1)
        }
        for part in (parts.choosing, parts.judging)
    ]
    assert all(windows)
    assert not windows[0] & windows[1]


def test_all_kinds_are_judged_on_more_than_a_thousand_tokens(parts: HeldoutParts) -> None:
    kinds = parts.describe()["judging"]["kinds"]
    assert set(kinds) == {"plain", "fim", "chat"}
    assert min(kinds.values()) > 1000
