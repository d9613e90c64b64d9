"""How long an editor waits for a middle, keystroke by keystroke, beside llama-server's `/infill`.

A session is replayed: lines are typed, words deleted and typed again, and the cursor moves, in a
file of 400 lines. Each keystroke is one request, as an editor sends it: all that is before the
cursor and all behind it. Both servers keep what they can of the request before.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from benchmarks.llama_cpp import cache, obtain
from benchmarks.load import Pair, at, pairs
from benchmarks.record import keep, kept
from benchmarks.serving import llama_serving, serving

LINES, TOKENS = 400, 8
LITE_LINES, LITE_KEYSTROKES = 100, 30
CONTEXT = 8192
OURS = "trtcoder", "trtcoder, anchored"


@dataclass(frozen=True, slots=True)
class Keystroke:
    """What an editor sends: the text before and behind the cursor, and what was done."""

    prefix: str
    suffix: str
    action: str


def file_text(lines: int = LINES) -> list[str]:
    """Return a Python file of so many lines, of the built-in held-out text."""
    from trtcoder.calib.text.examples import read_built_in

    texts = [each["text"] for each in read_built_in("heldout") if each["kind"] == "plain"]
    return "\n".join(texts).splitlines(keepends=True)[:lines]


def session(lines: int = LINES) -> Iterator[Keystroke]:
    """Yield a session's keystrokes, the same each time.

    At three places, the last one above the one before it: the rest of a line is typed, its last
    word deleted letter by letter and typed again, and the cursor goes on to the next line.
    """
    file = file_text(lines)
    for share in (0.5, 0.75, 0.25):
        row = int(lines * share)
        while len(file[row].split()) < 3 or len(file[row]) > 60:
            row += 1
        before, line, behind = "".join(file[:row]), file[row].rstrip("\n"), "".join(file[row + 1 :])
        indent = len(line) - len(line.lstrip())
        word = len(line) - len(line.split()[-1])
        for end in range(indent, len(line) + 1):
            yield Keystroke(before + line[:end], "\n" + behind, "type" if end > indent else "move")
        for end in range(len(line) - 1, word - 1, -1):
            yield Keystroke(before + line[:end], "\n" + behind, "delete")
        for end in range(word + 1, len(line) + 1):
            yield Keystroke(before + line[:end], "\n" + behind, "type")
        yield Keystroke(before + line + "\n", behind, "move")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a keystroke took: seconds to the first text and to all of it, and tokens."""

    first: float
    whole: float
    prompt: int
    cached: int


def ask(connection: http.client.HTTPConnection, stroke: Keystroke, anchored: bool) -> Answer:
    """Send a keystroke to `/infill` as llama.vim does, and read the stream to its end."""
    body: dict[str, Any] = {
        "input_prefix": stroke.prefix, "input_suffix": stroke.suffix, "n_predict": TOKENS,
        "temperature": 0, "top_k": 1, "stream": True, "cache_prompt": True, "ignore_eos": True,
    }  # fmt: skip
    if anchored:
        body["trtcoder"] = {"anchored": True}
    started = time.perf_counter()
    connection.request("POST", "/infill", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    first, last = 0.0, b""
    while line := response.readline():
        if line.startswith(b"data: ") and b"[DONE]" not in line:
            first = first or time.perf_counter() - started
            last = line
    whole = time.perf_counter() - started
    if response.status != 200 or not last:
        raise click.ClickException(f"/infill: {response.status} {last.decode()}")
    end = json.loads(last[6:])
    timings = end.get("timings") or {}
    # Of llama-server: tokens that were computed, and those that were in the cache.
    cached = int(timings.get("cache_n", end.get("tokens_cached", 0)))
    prompt = int(timings.get("prompt_n", 0)) + cached
    return Answer(first, whole, prompt or int(end.get("tokens_evaluated", 0)), cached)


def figures(answers: list[Answer]) -> dict[str, Any]:
    """Return quantiles in ms, and the share of the prompts that was in the cache."""
    firsts = sorted(1e3 * answer.first for answer in answers)
    wholes = sorted(1e3 * answer.whole for answer in answers)
    computed = sorted(answer.prompt - answer.cached for answer in answers)
    total = sum(answer.prompt for answer in answers)
    return {
        "first_p50": round(at(firsts, 0.5), 1),
        "first_p95": round(at(firsts, 0.95), 1),
        "whole_p50": round(at(wholes, 0.5), 1),
        "whole_p95": round(at(wholes, 0.95), 1),
        "prompt_tokens": total // len(answers),
        "cached_share": round(sum(answer.cached for answer in answers) / total, 4),
        "computed_p50": at(computed, 0.5),
        "computed_p95": at(computed, 0.95),
    }


def measure(pair: Pair, llama: Any, lines: int, limit: int | None) -> dict[str, Any]:
    """Return the figures of each server; they take turns keystroke by keystroke.

    A random checkpoint's tokens are bytes, and a Lite computes long: its file has fewer lines, and
    its session ends sooner.
    """
    if not pair.name.startswith("demo"):
        lines, limit = min(lines, LITE_LINES), limit or LITE_KEYSTROKES
    strokes = list(session(lines))[:limit]
    # It takes three quarters of a batch before the hole and one behind it, and cuts the rest.
    flags = ("-np", "1", "-c", str(4 * CONTEXT), "-b", str(4 * CONTEXT))
    ours = ("--context", str(CONTEXT), "--cache-tokens", str(4 * CONTEXT))
    found: dict[str, list[Answer]] = {}
    with (
        serving(pair.engine, *ours) as plain,
        serving(pair.engine, *ours) as anchored,
        llama_serving(llama, pair.model, *flags) as theirs,
    ):
        ways = {
            OURS[0]: (plain.port, False),
            OURS[1]: (anchored.port, True),
            "llama-server": (theirs.port, False),
        }
        connections = {
            name: http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            for name, (port, _) in ways.items()
        }
        for index, stroke in enumerate(strokes):
            for name, connection in connections.items():
                connection.close()  # none has waited too long for the others
                connection.connect()
                answer = ask(connection, stroke, ways[name][1])
                if index:  # the first one computes the whole file
                    found.setdefault(name, []).append(answer)
        for connection in connections.values():
            connection.close()
    rows = {name: figures(answers) for name, answers in found.items()}
    for name, row in rows.items():
        click.echo(f"{pair.name:<22} {name:<20} {row}", err=True)
    return {"lines": lines, "keystrokes": len(strokes), "rows": rows}


@click.command()
@click.option("--only", multiple=True, help="A pair by its name; all by default.")
@click.option("--lines", default=LINES, show_default=True, help="Of the file.")
@click.option("--limit", type=int, help="Keystrokes; all by default.")
def main(only: tuple[str, ...], lines: int, limit: int | None) -> None:
    """Replay the session and print a table, then one JSON line."""
    llama = obtain(cache())
    wanted = only or ("demo, int4", "Lite, 4 layers, int4")
    measured = {pair.name: measure(pair, llama, lines, limit) for pair in pairs(llama, wanted)}
    models = kept("keystrokes", "models") | measured
    keep(
        "keystrokes",
        {"llama.cpp": llama.versions(), "answer_tokens": TOKENS, "models": models},
    )


if __name__ == "__main__":
    main()
