"""Holes whose markers a client has written into its prompt as text."""

from __future__ import annotations

from trtcoder.prompting.filling import Hole
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.settings import ServerSettings


def rendered_hole(served: Served, settings: ServerSettings, text: str) -> Hole | None:
    """Return the hole that a raw prompt spells with the model's own markers; None for any other.

    Tabby, Continue, minuet and llm.nvim write prompts so. The markers are taken for more than text
    only where there is exactly one of each, in the model's order, from the first character of the
    prompt (behind BOS, where the client writes that too) to the last.
    """
    if not settings.rendered_fim:
        return None
    prompts = served.llm.prompts
    tokens = prompts.format.tokens
    names = {id_: name for name, id_ in prompts.tokenizer.control.items()}
    found = [
        names.get(-1 if id_ is None else id_, "")
        for id_ in (tokens.fim_begin, tokens.fim_hole, tokens.fim_end)
    ]
    begin, hole, end = found
    if not all(found) or any(text.count(marker) != 1 for marker in found):
        return None
    if tokens.bos is not None:
        text = text.removeprefix(names.get(tokens.bos, ""))
    if not text.startswith(begin) or not text.endswith(end):
        return None
    prefix, marker, suffix = text[len(begin) : -len(end)].partition(hole)
    return Hole(prefix, suffix) if marker else None
