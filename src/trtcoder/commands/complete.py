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

    PROMPT is text, or - to read standard input. Only the continuation is printed.
    """
    from trtcoder.commands.terminal import print_answer, read_text

    options = GenerationOptions(**values)
    params = options.sampling_params()
    text = read_text(prompt, "PROMPT")
    with options.open(engine, "completion") as llm:
        answer = llm.stream(text, params)
        print_answer(answer, as_json=options.as_json, model=llm.manifest.model.name)
