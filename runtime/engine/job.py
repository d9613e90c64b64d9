"""A request while it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trtcoder.runtime.requests.answer import Answer
from trtcoder.runtime.requests.events import Event, TokenLogprob
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.scheduler.sequence import Sequence

Sink = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class Job:
    """A request that is being answered.

    Attributes:
        request: what was asked.
        params: its parameters, with the engine's defaults filled in.
        sink: told of every event, in the engine's thread; must return at once.
        usage: what it has cost so far.
        answers: one for each of its sequences.
    """

    request: Request
    params: SamplingParams
    sink: Sink
    usage: Usage
    answers: dict[Sequence, Answer] = field(default_factory=dict)
    prompt_logprobs: list[tuple[float, tuple[TokenLogprob, ...]]] = field(default_factory=list)
