"""A problem: what a model is asked, and how its answer is judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trtcoder.evaluation.sandbox.sandbox import Sandbox

Form = Literal["complete", "chat", "fill"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer is worth.

    Attributes:
        passed: whether it solves the problem.
        reason: why not, in a few words.
        measures: further figures of it from 0 to 1, by name, such as ``exact match``.
    """

    passed: bool
    reason: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)


Judge = Callable[[str, "Sandbox"], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem of a suite.

    Attributes:
        id: its name within the suite, as its publishers have it where they have one.
        form: how it is asked: text to go on with, a message of a chat, or a hole to fill.
        prompt: the text, the user's message, or what stands before the hole.
        suffix: what stands behind the hole.
        system: the chat's first message, where it has one.
        max_tokens: most tokens of the answer.
        stop: texts before which the answer ends.
        judge: judges the answer; may be called from any thread.
        place: of a needle: the prompt's length in tokens, and the needle's depth from 0 to 1.
    """

    id: str
    form: Form
    prompt: str
    max_tokens: int
    judge: Judge = field(compare=False)
    suffix: str = ""
    system: str | None = None
    stop: tuple[str, ...] = ()
    place: tuple[int, float] | None = None


def digest(problems: Iterable[Problem]) -> str:
    """Return the sha256 of what is asked, in hex; other data or prompts give another one."""
    asked = [
        [each.id, each.form, each.prompt, each.suffix, each.system, each.max_tokens, each.stop]
        for each in problems
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def before_stop(text: str, stop: Iterable[str]) -> str:
    """Return ``text`` up to the first of the stop texts, for servers that know fewer of them."""
    ends = [place for each in stop if (place := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text
