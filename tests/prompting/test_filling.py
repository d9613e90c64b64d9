from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.toy_engine import SPECIAL, toy_manifest
from trtcoder.bundle.manifest import Tokens
from trtcoder.prompting.filling import Hole, fill_prompt
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint" / "tokenizer.json"
TOKENIZER = TextTokenizer.load(DEMO)
BOS, EOS, BEGIN, HOLE, END = (TOKENIZER.control[f"<｜{name}｜>"] for name in SPECIAL)
TOKENS = Tokens(BOS, (EOS,), BEGIN, HOLE, END, add_bos=True)
PROMPTS = Prompts(dataclasses.replace(toy_manifest(), tokens=TOKENS), TOKENIZER)
PIECES = ["def ", "x", "(", "\n", "    ", "é", "写", "return", " "]
CODE = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def parts(ids: tuple[int, ...]) -> tuple[bytes, bytes, bytes]:
    """Return what stands before the hole, behind it, and in it."""
    listed = list(ids)
    begin, hole, end = (
        listed.index(token or 0) for token in (TOKENS.fim_begin, TOKENS.fim_hole, TOKENS.fim_end)
    )
    cut = (listed[begin + 1 : hole], listed[hole + 1 : end], listed[end + 1 :])
    before, behind, middle = (b"".join(map(TOKENIZER.token_bytes, each)) for each in cut)
    return before, behind, middle


@given(CODE, CODE, CODE, st.booleans(), st.booleans())
def test_prompt_and_forced_bytes_are_the_text_before_the_cursor(
    prefix: str, suffix: str, begun: str, heal: bool, anchored: bool
) -> None:
    found = fill_prompt(PROMPTS, Hole(prefix, suffix, begun), 500, heal=heal, anchored=anchored)
    before, behind, middle = parts(found.ids)
    assert behind.decode() == suffix
    assert (before + middle + found.forced).decode() == prefix + begun
    assert heal or not found.forced
    assert not heal or found.forced or not prefix + begun
    if anchored:
        # What is before the hole depends on the lines above only.
        line = prefix.rfind("\n") + 1
        assert before == prefix[:line].encode() or (heal and not prefix[line:] + begun)
    else:
        assert prefix.encode().startswith(before)


@given(CODE, CODE, st.integers(60, 90), st.booleans())
def test_a_prompt_is_never_longer_than_its_room(
    prefix: str, suffix: str, room: int, anchored: bool
) -> None:
    text = Hole(prefix * 20, suffix * 20)
    assert len(fill_prompt(PROMPTS, text, room, anchored=anchored).ids) <= room
