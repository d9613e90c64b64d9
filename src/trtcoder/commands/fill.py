"""`trtcoder fill`: write what is missing in the middle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtcoder.commands.generation_options import (
    GenerationOptions,
    generation_options,
    note_spelled_tokens,
)
from trtcoder.commands.terminal import say
from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from trtcoder.runtime.llm import LLM


@click.command()
@click.argument("engine", type=click.Path())
@click.argument("place", metavar="[FILE:LINE:COL]", required=False)
@click.option("--prefix", help="Text before the hole, instead of FILE:LINE:COL.")
@click.option("--suffix", help="Text after the hole, instead of FILE:LINE:COL.")
@generation_options(max_tokens=128)
def fill(
    engine: str, place: str | None, prefix: str | None, suffix: str | None, **values: Any
) -> None:
    """Fill in the middle of a file with the engine in folder ENGINE.

    The hole is before column COL of line LINE of FILE, both counted from 1, the column in
    characters; one column past the end of a line is its end. Only the middle is printed, and
    FILE, which may be /dev/stdin, is not changed. Where all lines of FILE end as on Windows, so do
    those of the middle.
    """
    from trtcoder.commands.prompt_progress import PromptProgress
    from trtcoder.prompting.line_ends import LineEnds

    if (place is None) == (prefix is None and suffix is None):
        raise click.UsageError("Give either FILE:LINE:COL, or --prefix and --suffix.")
    options = GenerationOptions(**values)
    options.sampling_params()
    before, after = (prefix or "", suffix or "") if place is None else split_file(place)
    ends = LineEnds.of(before, after)
    params = options.with_line_ends(ends).sampling_params()
    with options.open(engine, "fim") as llm, PromptProgress() as progress:
        note_spelled_tokens(llm, before, after)
        seen = _fitted(llm, ends.for_model(before), ends.for_model(after), options.max_tokens)
        answer = llm.stream_fill(*seen, params, on_progress=progress)
        options.answer(answer, llm, ends)


def _fitted(llm: LLM, before: str, after: str, max_tokens: int) -> tuple[str, str]:
    """Return what stands round the hole, as far as context and answer leave room for it."""
    from trtcoder.prompting.around_hole import around_hole

    # An answer that could take all of the context leaves the file three quarters of it.
    room = llm.context - min(max_tokens, llm.context // 4)
    found = around_hole(llm.prompts, llm.tokenizer, before, after, room)
    if found.is_cut:
        say(
            f"note: the text has {sum(found.tokens):,} tokens and the context holds "
            f"{llm.context:,}; the model sees the {found.kept[0]:,} before the hole and the "
            f"{found.kept[1]:,} behind it"
        )
    return found.prefix, found.suffix


def split_file(place: str) -> tuple[str, str]:
    """Return a file's text before and after ``FILE:LINE:COL``.

    Raises:
        RequestError: malformed, the file cannot be read as UTF-8, or the place is outside it.
    """
    match = re.fullmatch(r"(.+):([0-9]{1,9}):([0-9]{1,9})", place, re.DOTALL)
    if match is None:
        raise RequestError(f"{place}: expected FILE:LINE:COL, such as sort.py:3:9")
    path, line, column = Path(match[1]), int(match[2]), int(match[3])
    try:
        # Bytes, because text mode would turn \r\n into \n; editors do not count a BOM.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8 at byte {error.start}; convert the file") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from error
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise RequestError(f"{path}: has no line {line}; lines go from 1 to {len(lines)}")
    end = len(lines[line - 1].removesuffix("\r")) + 1
    if not 1 <= column <= end:
        raise RequestError(
            f"{path}: line {line} has no column {column}; columns go from 1 to {end}"
        )
    offset = sum(len(each) + 1 for each in lines[: line - 1]) + column - 1
    return text[:offset], text[offset:]
