"""Options of an engine that several commands have; the same words wherever they stand."""

from __future__ import annotations

import click

from trtcoder.commands.numbers import few_threads

THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=few_threads,
    help="Threads.  [default: the cores that may be used]",
)
CONTEXT = click.option(
    "--context",
    type=click.IntRange(min=2),
    help="Most tokens of a prompt and its answer.  [default: the model's context]",
)
CACHE_TOKENS = click.option(
    "--cache-tokens",
    type=click.IntRange(min=2),
    help="Tokens that the cache holds, for all requests together.  "
    "[default: what fits into a quarter of the free memory]",
)
MAX_BATCH = click.option(
    "--max-batch",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="Answers computed at the same time.",
)
MAX_QUEUE = click.option(
    "--max-queue",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Answers that may wait.",
)
MAX_ANSWER_TOKENS = click.option(
    "--max-answer-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Of requests that give no limit.",
)
DETERMINISTIC = click.option(
    "--deterministic",
    is_flag=True,
    help="One answer at a time, nothing reused: a text does not depend on what else is asked.",
)
SPECULATE = click.option(
    "--speculate/--no-speculate",
    default=None,
    help="Guess tokens from what a sequence holds already, and verify several in one step.  "
    "[default: where that cannot change a text]",
)
NO_PREFIX_CACHE = click.option(
    "--no-prefix-cache", is_flag=True, help="Forget a request's rows when it ends."
)
