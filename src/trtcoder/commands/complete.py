"""`trtcoder complete`: continue a text."""

from __future__ import annotations

from typing import Any

import click

from trtcoder.commands.generation_options import GenerationOptions, generation_options


@click.command()
@click.argument("engine", type=click.Path())
@click.argument("prompt", required=False)
@generation_options(max_tokens=256)
def complete(engine: str, prompt: str | None, **values: Any) -> None:
    """Complete PROMPT with the engine in folder ENGINE.

    PROMPT is text, or - to read standard input. Only the continuation is printed. Where all
    lines of PROMPT end as on Windows, so do those of the continuation.
    """
    from trtcoder.commands.terminal import print_answer, read_text
    from trtcoder.prompting.line_ends import LineEnds

    options = GenerationOptions(**values)
    options.sampling_params()
    text = read_text(prompt, "PROMPT")
    ends = LineEnds.of(text)
    params = options.with_line_ends(ends).sampling_params()
    with options.open(engine, "completion") as llm:
        answer = llm.stream(ends.for_model(text), params)
        name = llm.manifest.model.name
        print_answer(answer, as_json=options.as_json, model=name, ends=ends)
