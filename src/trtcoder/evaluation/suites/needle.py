"""A needle in a haystack: one fact in a long file of code, asked for at its end.

The card has a map of it to 128K tokens and publishes no prompts. Here the haystack is Python that
is made up and says nothing of the fact, the same for all depths of a length; the fact is a comment
with a number of seven digits, so that it can be neither known nor guessed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.problem import Judge, Outcome, Problem
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Setup, Suite

_MAX_TOKENS = 24
# Tokens that a chat's format may add to a prompt.
_AROUND = 40
_SHORTEST, _LONGEST = 512, 8192
_CITIES = ("Lisbon", "Oslo", "Kyoto", "Lima", "Cairo", "Quito", "Turin", "Hanoi")
_VERBS = ("read", "merge", "count", "split", "check", "scale", "shift", "store", "parse", "order")
_NOUNS = ("rows", "names", "dates", "edges", "items", "pages", "parts", "sizes", "steps", "words")
_QUESTION = "What is the magic number of {city}? Answer with the number alone."
_BEGINNING = "# The magic number of {city} is"


def _function(rng: random.Random, number: int) -> str:
    verb, noun, other = rng.choice(_VERBS), rng.choice(_NOUNS), rng.choice(_NOUNS)
    return (
        f"def {verb}_{noun}_{number}({noun}, limit={rng.randrange(2, 90)}):\n"
        f'    """{verb.capitalize()} the {noun} and return the {other}."""\n'
        f"    {other}_found = []\n"
        f"    for index, value in enumerate({noun}):\n"
        f"        if value {rng.choice('<>')} limit + {rng.randrange(9)}:\n"
        f"            {other}_found.append((index, value * {rng.randrange(2, 9)}))\n"
        f"    return {other}_found\n\n\n"
    )


def haystack(tokens: int, seed: int, count_tokens: Callable[[str], int]) -> list[str]:
    """Return functions that together have at most ``tokens`` tokens, and little less."""
    rng = random.Random(seed)
    pieces: list[str] = [_function(rng, number) for number in range(8)]
    each = count_tokens("".join(pieces)) / len(pieces)
    while len(pieces) * each < tokens * 1.1:
        pieces.append(_function(rng, len(pieces)))
    count = min(len(pieces), int(tokens / each))
    while count and (found := count_tokens("".join(pieces[:count]))) > tokens:
        count -= max(1, int((found - tokens) / each))
    return pieces[:count]


def lengths(setup: Setup) -> tuple[int, ...]:
    """Return those that were asked for, else doubled ones up to 8K or the context.

    Raises:
        EvaluationError: one is beyond the context.
    """
    if not setup.needle_lengths:
        doubled = (_SHORTEST << step for step in range(20))
        return tuple(each for each in doubled if each <= min(_LONGEST, setup.context))
    longest = max(setup.needle_lengths)
    if longest > setup.context:
        raise EvaluationError(
            f"--needle-lengths: {longest:,} tokens are more than the context of "
            f"{setup.context:,}; ask for at most so many"
        )
    return setup.needle_lengths


def _load(setup: Setup) -> Iterator[Problem]:
    steps = max(1, setup.needle_depths - 1)
    for length in lengths(setup):
        budget = min(length, setup.context - _MAX_TOKENS) - 2 * _AROUND
        pieces = haystack(budget, length, setup.count_tokens)
        for step in range(setup.needle_depths):
            depth = step / steps
            rng = random.Random(f"{length}/{step}")
            city, number = rng.choice(_CITIES), rng.randrange(10**6, 10**7)
            beginning = _BEGINNING.format(city=city)
            place = round(depth * len(pieces))
            hidden = [*pieces[:place], f"{beginning} {number}.\n\n\n", *pieces[place:]]
            chat = setup.form == "chat"
            end = _QUESTION.format(city=city) if chat else beginning
            yield Problem(
                id=f"{length}/{depth:.2f}",
                form=setup.form,
                prompt="".join(hidden) + end,
                max_tokens=_MAX_TOKENS,
                judge=_finds(number),
                place=(length, depth),
            )


def _finds(number: int) -> Judge:
    def judge(answer: str, sandbox: Sandbox) -> Outcome:
        found = re.search(rf"(?<!\d){number}(?!\d)", answer) is not None
        return Outcome(found, "" if found else f"answered {answer.strip()[:40]!r}")

    return judge


SUITE = Suite(
    name="needle",
    title="Needle in a haystack",
    forms=("chat", "complete"),
    load=_load,
    measure="found",
)
