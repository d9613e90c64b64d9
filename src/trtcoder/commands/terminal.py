"""Answers on standard output: streamed text for people, one JSON object for programs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from trtcoder.errors import RequestError
from trtcoder.printable import printable, printable_line

if TYPE_CHECKING:
    from trtcoder.prompting.line_ends import LineEnds
    from trtcoder.runtime.requests.generation import Generation


def say(note: str) -> None:
    """Write a note for the user on standard error, in one line; where it is full, nowhere."""
    with contextlib.suppress(OSError):
        click.echo(printable_line(note), err=True)


def show(text: str) -> None:
    """Write ``text`` and a newline on standard output, in the encoding that it has.

    What a terminal would obey is replaced. Not by click.echo, which takes an encoding of ASCII for
    an error of the system and writes UTF-8 all the same.
    """
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def show_bytes(data: bytes) -> None:
    """Write ``data`` on standard output as it is."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print a value as JSON, in letters that standard output has."""
    from trtcoder.plain_json import dumps

    show(dumps(value, indent=indent, ascii_only=not _takes_unicode()))


def print_answer(
    generation: Generation, *, as_json: bool, model: str, ends: LineEnds | None = None
) -> str:
    """Print an answer as it is generated, and return its text.

    Its lines end as ``ends`` says, in JSON and in a pipe; in a terminal they end as lines do.
    """
    if as_json:
        text = generation.text() if ends is None else ends.restored(generation.text())
        print_json(_report(generation, text, model))
        return text
    pieces: list[str] = []
    stream_answer(generation, pieces, ends)
    return "".join(pieces)


def stream_answer(generation: Generation, pieces: list[str], ends: LineEnds | None = None) -> None:
    """Stream an answer, adding each piece to ``pieces``, which an interrupt leaves filled.

    A terminal gets nothing that it would obey, and a newline at the end; a pipe gets exactly the
    text.

    Raises:
        RequestError: the text has a letter that standard output's encoding lacks.
    """
    is_terminal = sys.stdout.isatty()
    for chunk in generation:
        if not chunk.text:
            continue
        pieces.append(chunk.text)
        if is_terminal:
            text = printable(chunk.text)
        else:
            text = _encodable(chunk.text if ends is None else ends.restored(chunk.text))
        # Not click.echo, which takes escape sequences out of what goes into a pipe.
        sys.stdout.write(text)
        sys.stdout.flush()
    if is_terminal:
        show("")
    if generation.finish_reason in ("length", "context") and sys.stderr.isatty():
        why = {"length": "--max-tokens is reached", "context": "the context is full"}
        with contextlib.suppress(OSError):
            click.secho(f"[{why[generation.finish_reason]}]", dim=True, err=True)


def read_text(value: str | None, what: str) -> str:
    """Return an argument, or standard input for ``-`` or for an argument left out in a pipe.

    A byte order mark is no part of the text.

    Raises:
        RequestError: standard input is closed, or not UTF-8.
        click.UsageError: nothing was given.
    """
    if value is not None and value != "-":
        return value
    if sys.stdin is None:
        raise RequestError(f"standard input is closed; give {what} as an argument")
    if value is None and sys.stdin.isatty():
        raise click.UsageError(f"Missing {what}; give it as an argument, or - for standard input.")
    return decoded(sys.stdin.buffer.read())


def decoded(data: bytes, where: str = "") -> str:
    """Return what standard input holds, as text; ``where`` says where in it, for errors.

    Raises:
        RequestError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input{where}: not UTF-8 at byte {error.start}; convert it"
        ) from error


def _takes_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "") in ("utf8", "utf8sig")


def _encodable(text: str) -> str:
    """Return ``text``, which a pipe gets as it is or not at all."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        raise RequestError(
            f"standard output: its encoding, {encoding}, has no {text[error.start]!a}; set "
            "PYTHONIOENCODING=utf-8, or take --json, which needs no letters but ASCII"
        ) from error
    return text


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
