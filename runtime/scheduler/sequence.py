"""One sequence of tokens on its way through the engine."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from trtcoder.runtime.cache.block_table import BlockTable


class State(enum.Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, and how far the cache has them.

    There is no prefill phase and no decode phase: a sequence has tokens that are not computed yet,
    many or one, and each step computes some of them.

    Attributes:
        tokens: the prompt and what was sampled.
        num_prompt: tokens of the prompt.
        client: who asked; clients get equal shares.
        salt: sequences of different salt share no prefix.
        leader: a sequence with the same prompt whose rows this one waits for.
        all_logits: the logits of every prompt token are wanted, so none may come from the cache.
        num_computed: leading tokens whose rows are in the cache.
        num_cached: leading tokens whose rows were there when it first ran.
        num_published: leading blocks that others can find.
        served: prompt tokens computed for it, which orders prompts that wait for their turn.
        preemptions: how often it lost its blocks.
    """

    tokens: list[int]
    num_prompt: int
    client: str = ""
    salt: str = ""
    leader: Sequence | None = None
    all_logits: bool = False
    state: State = State.WAITING
    arrival: int = 0
    table: BlockTable = field(default_factory=BlockTable)
    num_computed: int = 0
    num_cached: int | None = None
    num_published: int = 0
    served: int = 0
    preemptions: int = 0

    @property
    def num_missing(self) -> int:
        """Tokens that are not computed yet; the last one's logits give the next token."""
        return len(self.tokens) - self.num_computed
