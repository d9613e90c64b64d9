"""`trtcoder complete`: continue a text."""

from __future__ import annotations

from typing import Any

import click

from trtcoder.commands.generation_options import (
    GenerationOptions,
    generation_options,
    note_spelled_tokens,
)
from trtcoder.commands.terminal import read_text


@click.command()
@click.argument("engine", type=click.Path())
@click.argument("prompt", required=False)
@generation_options(max_tokens=256)
def complete(engine: str, prompt: str | None, **values: Any) -> None:
    """Complete PROMPT with the engine in folder ENGINE.

    PROMPT is text, or - to read standard input. Only the continuation is printed. Where all
    lines of PROMPT end as on Windows, so do those of the continuation.
    """
    from trtcoder.commands.prompt_progress import PromptProgress
    from trtcoder.prompting.line_ends import LineEnds

    options = GenerationOptions(**values)
    options.sampling_params()
    text = read_text(prompt, "PROMPT")
    ends = LineEnds.of(text)
    params = options.with_line_ends(ends).sampling_params()
    with options.open(engine, "completion") as llm, PromptProgress() as progress:
        note_spelled_tokens(llm, text)
        answer = llm.stream(ends.for_model(text), params, on_progress=progress)
        options.answer(answer, llm, ends)
