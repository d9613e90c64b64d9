"""What each option of filling in the middle does to exact match and to the cached share.

Items are lines of *classics* with a cursor in them; what stands behind the cursor on its line is to
be written. The demo model was trained on classics, in random spellings: the shares tell options
apart, not models, since of lines that it never saw it fills next to none exactly. Two shares are
stated: of middles that are the line's whole end, and of middles that begin with the word at the
cursor. The session types a line into a file of held-out code, one request a keystroke.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import build_engine
from benchmarks.record import environment, keep
from benchmarks.serving_tables import fim_table
from demo.recipe.classics import spell
from trtcoder.prompting.filling import Hole, fill_prompt
from trtcoder.prompting.line_ends import LineEnds
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.requests.generation import Generation
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.fim.middle import Middle
from trtcoder.runtime.server.fim.options import FimDefaults

LIMIT, CONTEXT = 32, 1536
# The session types a line of at least so many characters, and asks for one token each time.
TYPED, SHORT = 40, 1
SESSIONS = ("none", "anchored")
FILES = {"fits": 60, "is cut": 240}
MODES = {
    "none": FimDefaults(),
    "heal": FimDefaults(heal=True),
    "anchored": FimDefaults(anchored=True),
    "anchored, heal: false": FimDefaults(anchored=True, heal=False),
    "trim_suffix": FimDefaults(trim_suffix=True),
    "single_line": FimDefaults(single_line=True),
    "heal, trim_suffix, single_line": FimDefaults(heal=True, trim_suffix=True, single_line=True),
    "anchored, trim_suffix, single_line": FimDefaults(
        anchored=True, trim_suffix=True, single_line=True
    ),
}


@dataclass(frozen=True, slots=True)
class Item:
    """A hole, what was in it, and where on its line the cursor is."""

    hole: Hole
    middle: str
    kind: str


def texts() -> list[str]:
    """Return the held-out text that is plain code."""
    from trtcoder.calib.text.examples import read_built_in

    return [each["text"] for each in read_built_in("heldout") if each["kind"] == "plain"]


def items(count: int) -> list[Item]:
    """Return ``count`` holes: cursors before a line's first word, between words and inside one."""
    rng = random.Random(1)
    found: list[Item] = []
    while len(found) < count:
        text = spell(rng).code
        for match in re.finditer(r"^( *)(\w.*\w.*)$", text, re.MULTILINE):
            start, end = match.start(2), match.end(2)
            for kind, pattern in (("line start", r"^"), ("word start", r"\b(?<=\W)(?=\w)"),
                                  ("inside a word", r"(?<=\w)(?=\w)")):  # fmt: skip
                places = [each.start() for each in re.finditer(pattern, match[2])]
                if places and end - start < 100:
                    place = start + rng.choice(places)
                    hole = Hole(text[:place], text[end:])
                    found.append(Item(hole, text[place:end].rstrip(), kind))
    return found[:count]


def begin(llm: LLM, hole: Hole, options: FimDefaults, limit: int) -> Generation:
    """Ask for a middle of at most ``limit`` tokens, as the server does."""
    prompt = fill_prompt(
        llm.prompts, hole, llm.context - limit, heal=options.heals, anchored=options.anchored
    )
    params = SamplingParams(temperature=0.0, max_tokens=limit)
    return Generation(llm.engine.thread, Request(prompt.ids, params, forced=prompt.forced))


def edited(text: str, hole: Hole, options: FimDefaults) -> str:
    """Return a greedy answer as it is with what does not change the tokens before its end."""
    middle = Middle(hole.suffix, LineEnds(windows=False), trims=options.trim_suffix)
    line = text.partition("\n")[0] if options.single_line else text
    return middle.push(line) + middle.finish()


def is_exact(middle: str, expected: str) -> bool:
    """Tell whether a middle is what was there."""
    return middle.rstrip() == expected


def has_word(middle: str, expected: str) -> bool:
    """Tell whether a middle begins with the word, or the rest of it, that was at the cursor."""
    return re.split(r"\W", middle)[0] == re.split(r"\W", expected)[0]


MEASURES = {"line": is_exact, "word": has_word}


def shares(
    texts: list[str], asked: list[Item], options: FimDefaults
) -> dict[str, dict[str, float]]:
    """Return the share of middles that are right, by measure and kind of cursor."""
    middles = [edited(text, item.hole, options) for text, item in zip(texts, asked, strict=True)]
    found = {}
    for measure, is_right in MEASURES.items():
        hits: dict[str, list[bool]] = {}
        for middle, item in zip(middles, asked, strict=True):
            for kind in (item.kind, "all"):
                hits.setdefault(kind, []).append(is_right(middle, item.middle))
        found[measure] = {kind: round(sum(e) / len(e), 3) for kind, e in sorted(hits.items())}
    return found


def keystrokes(lines: int) -> Iterator[Hole]:
    """Yield what an editor sends while a line is typed into the middle of ``lines`` lines."""
    file = "\n".join(texts()).splitlines(keepends=True)[:lines]
    at = next(i for i in range(lines // 2, lines) if len(file[i].strip()) >= TYPED)
    before, behind = "".join(file[:at]), "".join(file[at + 1 :])
    line = file[at].rstrip("\n")
    for end in range(len(line) - len(line.lstrip()), len(line) + 1):
        yield Hole(before + line[:end], "\n" + behind)


def session(llm: LLM, options: FimDefaults, lines: int) -> dict[str, float]:
    """Return the cached share of a session's prompts but the first, and tokens computed for one."""
    usages = []
    for hole in keystrokes(lines):
        generation = begin(llm, hole, options, SHORT)
        generation.text()
        usages.append(generation.usage)
    usages = usages[1:]
    computed = sorted(usage.prompt_tokens - usage.cached_tokens for usage in usages)
    total = sum(usage.prompt_tokens for usage in usages)
    return {
        "cached_share": round(1 - sum(computed) / total, 3),
        "computed_p50": computed[len(computed) // 2],
        "computed_p95": computed[int(len(computed) * 0.95)],
    }


@click.command()
@click.option("--items", "count", default=300, show_default=True)
def main(count: int) -> None:
    """Build the demo engine, ask, and print a table, then one JSON line."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "demo-int4"
        build_engine(folder, ["--weights", "int4"])
        rows = measure(folder, items(count))
    result = {"environment": environment(), "items": count, "modes": rows}
    click.echo(fim_table(result))
    keep("fim", result)


def measure(folder: Path, asked: list[Item]) -> dict[str, Any]:
    """Return the figures of each mode."""
    rows: dict[str, Any] = {}
    answers: dict[tuple[bool, bool], list[str]] = {}
    for name, options in MODES.items():
        way = options.heals, options.anchored
        if way not in answers:
            # Each with an empty cache, so that no way finds what another one has left.
            with LLM(folder, max_model_len=CONTEXT, verify_hashes=False) as llm:
                running = [begin(llm, item.hole, options, LIMIT) for item in asked]
                answers[way] = [generation.text() for generation in running]
        rows[name] = {"exact": shares(answers[way], asked, options)}
        if name in SESSIONS:
            with LLM(folder, max_model_len=CONTEXT, verify_hashes=False) as llm:
                for place, lines in FILES.items():
                    rows[name][place] = session(llm, options, lines)
        click.echo(f"{name:36} {rows[name]}", err=True)
    return rows


if __name__ == "__main__":
    main()
