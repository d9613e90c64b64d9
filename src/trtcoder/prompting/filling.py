"""A hole in a text, and the prompt that has it filled."""

from __future__ import annotations

from dataclasses import dataclass

from trtcoder.prompting.around_hole import Surroundings, around_hole
from trtcoder.prompting.prompts import Prompts


@dataclass(frozen=True, slots=True)
class Hole:
    """Text with a hole in it.

    Attributes:
        prefix, suffix: before and behind it.
        begun: what of the middle is there already; the answer goes on from it.
    """

    prefix: str
    suffix: str
    begun: str = ""


@dataclass(frozen=True, slots=True)
class FillPrompt:
    """The prompt for a hole.

    Attributes:
        ids: of the prompt.
        forced: bytes that the answer must begin with, which are in the text already.
        seen: what of the text the model sees.
    """

    ids: tuple[int, ...]
    forced: bytes
    seen: Surroundings


def fill_prompt(
    prompts: Prompts, hole: Hole, room: int, *, heal: bool = False, anchored: bool = False
) -> FillPrompt:
    """Return the prompt of at most ``room`` tokens for what goes into ``hole``.

    Text beyond the room is cut at line starts, and what is near the hole stays.

    Args:
        prompts: of the engine.
        hole: the text.
        room: most tokens of the prompt.
        heal: the last token before the cursor is chosen again, together with what follows: a
            cursor may stand inside of what the model knows as one token.
        anchored: the line of the cursor belongs to the middle, so that the text before the hole
            ends at a line's start and a keystroke changes only the prompt's last tokens (as EFIM,
            https://arxiv.org/abs/2505.21889).

    Raises:
        RequestError: the model cannot fill, or the room is too small.
    """
    encode = prompts.tokenizer.encode
    prefix, tail = hole.prefix, encode(hole.begun)
    if anchored:
        start = prefix.rfind("\n") + 1
        line = encode(prefix[start:] + hole.begun)
        if len(line) <= room // 2:  # a line that is as long as a file is cut as one
            prefix, tail = prefix[:start], line
    seen = around_hole(
        prompts, prompts.tokenizer, prefix, hole.suffix, room - len(tail), steady=True
    )
    head = encode(seen.prefix)
    forced = b""
    if heal and (tail or head):
        forced = prompts.tokenizer.token_bytes((tail or head).pop())
    ids = (*prompts.fim_of_ids(head, encode(seen.suffix)), *tail)
    return FillPrompt(ids, forced, seen)
