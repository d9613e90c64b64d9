"""Answers on standard output: streamed text for people, one JSON object for programs."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import click

from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from trtcoder.prompting.line_ends import LineEnds
    from trtcoder.runtime.requests.generation import Generation

# What a terminal would obey instead of showing: C0 but tab and newline, DEL, and C1.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_answer(
    generation: Generation, *, as_json: bool, model: str, ends: LineEnds | None = None
) -> str:
    """Print an answer as it is generated, and return its text.

    Its lines end as ``ends`` says, in JSON and in a pipe; in a terminal they end as lines do.
    """
    if as_json:
        text = generation.text() if ends is None else ends.restored(generation.text())
        click.echo(json.dumps(_report(generation, text, model), ensure_ascii=False))
        return text
    pieces: list[str] = []
    stream_answer(generation, pieces, ends)
    return "".join(pieces)


def stream_answer(generation: Generation, pieces: list[str], ends: LineEnds | None = None) -> None:
    """Stream an answer, adding each piece to ``pieces``, which an interrupt leaves filled.

    A terminal gets no control characters from the model, and a newline at the end; a pipe gets
    exactly the text.
    """
    is_terminal = sys.stdout.isatty()
    for chunk in generation:
        if not chunk.text:
            continue
        pieces.append(chunk.text)
        if is_terminal:
            text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", chunk.text)
        else:
            text = chunk.text if ends is None else ends.restored(chunk.text)
        # Not click.echo, which takes escape sequences out of what goes into a pipe.
        sys.stdout.write(text)
        sys.stdout.flush()
    if is_terminal:
        click.echo()
    if generation.finish_reason in ("length", "context") and sys.stderr.isatty():
        why = {"length": "--max-tokens is reached", "context": "the context is full"}
        click.secho(f"[{why[generation.finish_reason]}]", dim=True, err=True)


def read_text(value: str | None, what: str) -> str:
    """Return an argument, or standard input for ``-`` or for an argument left out in a pipe.

    A byte order mark is no part of the text.

    Raises:
        RequestError: standard input is not UTF-8.
        click.UsageError: nothing was given.
    """
    if value is not None and value != "-":
        return value
    if value is None and sys.stdin.isatty():
        raise click.UsageError(f"Missing {what}; give it as an argument, or - for standard input.")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input: not UTF-8 at byte {error.start}; convert it"
        ) from error


def _report(generation: Generation, text: str, model: str) -> dict[str, object]:
    usage = generation.usage
    rate = usage.decode_tokens_per_second
    return {
        "model": model,
        "text": text,
        "finish_reason": generation.finish_reason,
        "stop_reason": generation.stop_reason,
        "seed": generation.seed,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "timings": {
            "prefill_seconds": round(usage.prefill_seconds, 6),
            "decode_seconds": round(usage.decode_seconds, 6),
            "decode_tokens_per_second": None if rate is None else round(rate, 2),
        },
    }
