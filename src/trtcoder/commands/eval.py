"""`trtcoder eval`: does it still code?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtcoder.commands import engine_options
from trtcoder.commands.eval_options import EvalOptions
from trtcoder.commands.numbers import TOKENS
from trtcoder.commands.terminal import print_json, show
from trtcoder.errors import RequestError


@click.command()
@click.argument("targets", metavar="ENGINE|URL", nargs=-1, required=True)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="A suite; repeatable.  [default: those that need no file: human-eval, infilling, needle]",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="SUITE=PATH",
    help="A suite's data, as it is published; repeatable.",
)
@click.option("--limit", type=TOKENS, help="Only the first so many problems of each suite.")
@click.option(
    "--form",
    type=click.Choice(["complete", "chat"]),
    help="How problems are asked that can be asked as text or as a message.  "
    "[default: chat, where the model chats]",
)
@click.option(
    "--compare", is_flag=True, help="Two engines, or their files of scores: which problems flipped."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file of scores; beside it, with an l more, the journal of all answers.  "
    "[default: ENGINE's name with .eval.json, in this folder]",
)
@click.option("--resume", is_flag=True, help="Go on with the journal of a run that was cut off.")
@click.option("--force", is_flag=True, help="Begin anew, over scores that are there.")
@click.option(
    "--attach",
    is_flag=True,
    help="Add the scores to the engine, whose manifest then has their hash.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Draw the needle's map into this file, as SVG.",
)
@click.option(
    "--needle-lengths",
    metavar="N,N…",
    help="Tokens of a haystack.  [default: 512, 1024, … to 8192]",
)
@click.option(
    "--needle-depths",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Places of the needle in each.",
)
@click.option(
    "--trust-generated-code",
    is_flag=True,
    help="Run what the model writes without a cell: it can do what you can.",
)
@engine_options.THREADS
@click.option(
    "--context",
    type=TOKENS,
    help="Most tokens of prompt and answer together.  [default: the model's context]",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Problems that are answered at a time.",
)
@click.option("--model", help="A server's model.  [default: the first that it lists]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def eval(targets: tuple[str, ...], compare: bool, as_json: bool, **values: Any) -> None:
    """Ask ENGINE, or a server at URL, problems of published suites, and judge its answers.

    Answers are the most likely ones. Code that the model writes runs in a cell of its own, without
    network, other processes or your files; a host that has no such means is refused.
    A server's key is read from TRTCODER_API_KEY. docs/evaluation.md says what each suite asks.
    """
    options = EvalOptions(**values)
    if compare:
        _compare(targets, options, as_json=as_json)
        return
    if len(targets) > 1:
        raise click.UsageError("One ENGINE or URL at a time; two with --compare.")
    from trtcoder.commands.evaluating import evaluate_target

    scores = evaluate_target(targets[0], options)
    if as_json:
        print_json(scores.to_dict())
    else:
        from trtcoder.evaluation.score_table import render_scores

        show(render_scores(scores))


def _compare(targets: tuple[str, ...], options: EvalOptions, *, as_json: bool) -> None:
    from trtcoder.bundle.scores import Scores
    from trtcoder.commands.evaluating import evaluate_target, name_of
    from trtcoder.evaluation.comparison import compare
    from trtcoder.evaluation.score_table import render_pairs
    from trtcoder.typed_json import plain

    if len(targets) != 2:
        raise click.UsageError("--compare takes two: engines, URLs, or files of scores.")
    if options.out is not None or options.picture is not None:
        raise click.UsageError("--compare names each file of scores by its engine.")
    names = [name_of(each) for each in targets]
    if names[0] == names[1]:
        raise RequestError(
            f"{names[0]}: both are called so, and their scores would be one file; evaluate each "
            "with its own --out, then compare the two files"
        )
    found = [
        Scores.load(Path(each)) if Path(each).is_file() else evaluate_target(each, options)
        for each in targets
    ]
    pairs = compare(found[0], found[1])
    if as_json:
        print_json({"a": targets[0], "b": targets[1], "suites": plain(pairs)})
    else:
        show(render_pairs(pairs, (targets[0], targets[1])))
