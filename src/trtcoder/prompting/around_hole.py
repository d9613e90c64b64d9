"""What a model sees of a file that is longer than its context: the lines round the hole."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer

# Of the room, what lies behind the hole gets at least this share, and what lies before it the rest:
# the text before it says more about what comes next.
_BEHIND = 4
# A steady cut looks for its line in so much of what is kept.
_SEARCHED = 4


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The text on both sides of a hole, as far as it is kept.

    ``tokens`` and ``kept`` count the tokens (before, behind) of all of it and of what is kept.
    """

    prefix: str
    suffix: str
    tokens: tuple[int, int]
    kept: tuple[int, int]

    @property
    def is_cut(self) -> bool:
        """Whether something was left out."""
        return self.kept != self.tokens


def around_hole(
    prompts: Prompts,
    tokenizer: TextTokenizer,
    prefix: str,
    suffix: str,
    room: int,
    *,
    steady: bool = False,
) -> Surroundings:
    """Return what of ``prefix`` and ``suffix`` fits into a prompt of ``room`` tokens.

    Whole lines are kept, the nearest to the hole; a line that alone is too long is cut. With
    ``steady`` up to a quarter less is kept: the cuts are at lines that their own text chooses, so
    that they stay where they are while the hole moves on, and the prompt's beginning with them.

    Raises:
        RequestError: the room does not even hold the control tokens; the model cannot fill.
    """
    before, behind = tokenizer.encode(prefix), tokenizer.encode(suffix)
    tokens = len(before), len(behind)
    around = len(prompts.fim("", ""))
    if around + sum(tokens) <= room:
        return Surroundings(prefix, suffix, tokens, tokens)
    budget = room - around
    if budget < 1:
        raise RequestError(
            f"the context has room for {room} tokens of prompt, and {around} of them are control "
            "tokens; ask for a longer context or a shorter answer"
        )
    while True:
        after = min(len(behind), max(budget // _BEHIND, budget - len(before)))
        tail = _first_lines(tokenizer, suffix, behind, after)
        if steady and tail != suffix:
            tail = tail[: _steady_end(tail)]
        taken = len(tokenizer.encode(tail))
        head = _last_lines(tokenizer, prefix, before, max(budget - taken, 0))
        if steady and head != prefix:
            head = head[_steady_start(head) :]
        kept = len(tokenizer.encode(head)), taken
        excess = around + sum(kept) - room
        if excess <= 0:
            return Surroundings(head, tail, tokens, kept)
        # Text that is cut may be encoded in more tokens than it had as a part.
        budget = max(budget - excess, 0)


def _last_lines(tokenizer: TextTokenizer, text: str, ids: list[int], count: int) -> str:
    if count >= len(ids):
        return text
    size = sum(len(tokenizer.token_bytes(token)) for token in ids[len(ids) - count :])
    end = text.encode()[-size:].decode("utf-8", "ignore") if size else ""
    if text[: len(text) - len(end)].endswith("\n"):
        return end
    _, _, lines = end.partition("\n")
    return lines or end


def _first_lines(tokenizer: TextTokenizer, text: str, ids: list[int], count: int) -> str:
    if count >= len(ids):
        return text
    size = sum(len(tokenizer.token_bytes(token)) for token in ids[:count])
    start = text.encode()[:size].decode("utf-8", "ignore")
    lines, found, _ = start.rpartition("\n")
    return lines + found if found else start


def _steady_start(text: str) -> int:
    """Return the start of the line with the largest hash in the first part of ``text``."""
    return _chosen(text, 0, len(text) // _SEARCHED, default=0)


def _steady_end(text: str) -> int:
    """Return the start of the line with the largest hash in the last part of ``text``."""
    return _chosen(text, len(text) - len(text) // _SEARCHED, len(text), default=len(text))


def _chosen(text: str, low: int, high: int, default: int) -> int:
    best, place = -1, default
    start = low if low == 0 else text.find("\n", low, high) + 1 or high
    while start < high:
        end = text.find("\n", start) + 1
        if not end:
            break
        found = zlib.crc32(text[start:end].encode())
        if found > best:
            best, place = found, start
        start = end
    return place
