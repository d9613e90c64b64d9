"""Chooses what runs in each step: decodes first, then chunks of prompts.

A step has a budget of tokens. Every sequence that lacks one token gets it; what is left goes to
prompts, to the client and the sequence that were served least so far. So a long prompt delays
running answers by one chunk at most, and a short one behind it waits for one chunk.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from trtcoder.errors import BusyError, ContextError, RequestError
from trtcoder.runtime.cache.latent_cache import LatentCache, Prefix
from trtcoder.runtime.scheduler.fair_share import FairShare
from trtcoder.runtime.scheduler.sequence import Sequence, State


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scheduler may do.

    Attributes:
        max_sequences: sequences that hold blocks at the same time.
        max_waiting: sequences that may wait for their turn.
        context: most tokens of one sequence.
        score_cells: bound on tokens x bound cache rows of a step, for the kernels' memory.
        chunk: prompt chunks end at multiples of it when set, whatever else runs.
    """

    max_sequences: int
    max_waiting: int
    context: int
    score_cells: int
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """The next ``count`` tokens of a sequence; the logits of the last ``samples`` are wanted.

    ``draft`` goes on with guesses behind them, which are not the sequence's before its logits say
    so; the logits of all of them are wanted too.
    """

    sequence: Sequence
    count: int
    samples: int
    draft: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        """Position of the first token."""
        return self.sequence.num_computed

    @property
    def num_tokens(self) -> int:
        """Tokens that run, drafted ones too."""
        return self.count + len(self.draft)

    @property
    def num_rows(self) -> int:
        """Rows of logits."""
        return self.samples + len(self.draft)

    @property
    def is_decode(self) -> bool:
        """Whether it is the one token that an answer lacks."""
        return self.count == 1 and self.start >= self.sequence.num_prompt


@dataclass(slots=True)
class Step:
    """What one forward pass does.

    Attributes:
        works: one for each sequence that takes part.
        copies: (from, to, rows): leading rows of a block that are copied before it runs.
        out_of_room: running sequences for which there will be no block; they must end.
    """

    works: list[Work] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    out_of_room: list[Sequence] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(work.num_tokens for work in self.works)

    @property
    def only_decodes(self) -> bool:
        """Whether no prompt runs in it."""
        return all(work.is_decode for work in self.works)


class Scheduler:
    """Sequences that wait and sequences that run, and the cache that they share.

    Attributes:
        cache: blocks and prefixes.
        waiting: in the order of arrival; those that were preempted keep their place.
        running: in the order in which they got blocks.
        preemptions: how often a sequence lost its blocks.
    """

    def __init__(self, cache: LatentCache, limits: Limits) -> None:
        self.cache = cache
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._arrivals = 0
        self._shares = FairShare()
        self._pinned: list[int] = []
        # Fills blocks behind those that the cache knows, and returns how many; see `restoring`.
        self._restore: Callable[[Sequence, int], int] = lambda sequence, known: 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence is waiting or running."""
        return bool(self.waiting or self.running)

    def restoring(self, restore: Callable[[Sequence, int], int]) -> None:
        """Have blocks that the cache does not know filled from elsewhere.

        ``restore`` is given a sequence whose table holds blocks for all of its tokens, and how many
        of them are known. It fills those that follow, as many as it can, and returns how many.
        """
        self._restore = restore

    def add(self, *sequences: Sequence) -> None:
        """Queue sequences, all of them or none.

        Raises:
            BusyError: too many are waiting.
            RequestError: a prompt is empty.
            ContextError: a prompt is longer than the context.
        """
        for sequence in sequences:
            if not sequence.tokens:
                raise RequestError("the prompt is empty")
            if len(sequence.tokens) > self.limits.context:
                raise ContextError(len(sequence.tokens), self.limits.context)
        if len(self.waiting) + len(sequences) > self.limits.max_waiting:
            raise BusyError(
                f"{len(self.waiting)} requests are waiting and at most "
                f"{self.limits.max_waiting} may; try again later"
            )
        for sequence in sequences:
            self._arrivals += 1
            sequence.arrival = self._arrivals
            sequence.served = min(
                (each.served for each in self._prefilling() if each.client == sequence.client),
                default=0,
            )
            self._shares.enter(sequence.client)
            self.waiting.append(sequence)

    def schedule(self, budget: int) -> Step:
        """Return the next step, of about ``budget`` tokens; its blocks are allocated.

        Make its copies and call `copied` before anything else.
        """
        step = Step()
        for sequence in [each for each in self.running if each.num_missing == 1]:
            if sequence.state is State.RUNNING and self._make_room(sequence, step):
                step.works.append(Work(sequence, 1, 1))
        if len(step.works) == len(self.running) and not self.waiting:
            return step
        bound = max((self._highest(work.sequence, 1) for work in step.works), default=0)
        budget = max(budget - len(step.works), 1)
        admits = True
        for sequence in sorted(self._prefilling(), key=self._turn):
            if budget <= 0:
                break
            if sequence.state is State.WAITING:
                if _follows(sequence):
                    continue
                admits = admits and self._admit(sequence, step)
                if not admits:
                    continue
            count = self._chunk(sequence, budget)
            self._grow(sequence, sequence.num_computed + count)
            bound = max(bound, self._highest(sequence, count))
            count = self._within_memory(count, step.num_tokens, bound)
            if count <= 0:
                break
            budget -= count
            step.works.append(Work(sequence, count, count if sequence.all_logits else 1))
        return step

    def draft(self, step: Step, index: int, tokens: list[int]) -> int:
        """Let a work of a step go on with ``tokens``, as far as there is room: nobody makes way.

        Returns how many of them run.
        """
        work, size = step.works[index], self.cache.block_size
        sequence, end = work.sequence, work.start + work.count
        blocks = len(sequence.table) + self.cache.num_available
        count = min(len(tokens), blocks * size - end, self.limits.context - len(sequence.tokens))
        self._grow(sequence, end + max(count, 0))
        bound = max(self._highest(each.sequence, each.num_tokens) for each in step.works)
        bound = max(bound, self._highest(sequence, work.count + max(count, 0)))
        count = max(self._within_memory(count, step.num_tokens, bound), 0)
        step.works[index] = replace(work, draft=tuple(tokens[:count]))
        return count

    def copied(self) -> None:
        """Note that the step's copies are made: what they were made from may go.

        Before that no sequence may end: one that is copied to holds what is above its source.
        """
        for block in self._pinned:
            self.cache.release(block)
        self._pinned.clear()

    def advance(self, sequence: Sequence, count: int) -> None:
        """Note that the rows of a sequence's next tokens are in the cache, and good.

        Others may find them. Drafted tokens come one by one, when they are the sequence's.
        """
        self._shares.charge(sequence.client, count)
        if sequence.num_computed < sequence.num_prompt:
            sequence.served += count
        sequence.num_computed += count
        if sequence.num_computed // self.cache.block_size > sequence.num_published:
            sequence.num_published = self.cache.publish(
                sequence.salt,
                sequence.tokens[: sequence.num_computed],
                sequence.table,
                sequence.num_published,
            )

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out and give its blocks back."""
        if sequence.state is State.FINISHED:
            return
        (self.running if sequence.state is State.RUNNING else self.waiting).remove(sequence)
        self._give_back(sequence)
        self._shares.leave(sequence.client)
        sequence.state = State.FINISHED

    def check(self) -> None:
        """Raise RuntimeError unless references, free list and tree add up."""
        tables = [each.table.blocks for each in self.running]
        self.cache.check([*tables, self._pinned])
        if any(len(each.table) for each in self.waiting):
            raise RuntimeError("a waiting sequence holds blocks")

    def _prefilling(self) -> list[Sequence]:
        """Return sequences that lack more than one token, and those that wait."""
        started = [each for each in self.running if each.num_missing > 1]
        return started + self.waiting

    def _turn(self, sequence: Sequence) -> tuple[int, int, int]:
        return self._shares.served(sequence.client), sequence.served, sequence.arrival

    def _admit(self, sequence: Sequence, step: Step) -> bool:
        """Give a waiting sequence what the cache knows of its tokens, if there is room for all."""
        if len(self.running) >= self.limits.max_sequences:
            return False
        # The last token is computed in any case: its logits are wanted.
        known = [] if sequence.all_logits else sequence.tokens[:-1]
        prefix = self.cache.find(sequence.salt, known)
        total = min(len(sequence.tokens) + 1, self.limits.context)
        if self.cache.num_needed(prefix, total) > self.cache.num_available:
            prefix = Prefix(prefix.nodes, None, 0)
            if self.cache.num_needed(prefix, total) > self.cache.num_available:
                return False
        self.cache.share(prefix, sequence.table)
        source = None if prefix.tail is None else self.cache.pin(prefix.tail)
        # Nobody else may take what it is admitted for.
        self._grow(sequence, len(sequence.tokens))
        size, shared = self.cache.block_size, len(prefix.nodes)
        restored = self._restore(sequence, shared) if shared < len(known) // size else 0
        sequence.num_computed = prefix.num_tokens(size)
        sequence.num_published = shared
        if restored:
            sequence.num_computed = (shared + restored) * size
            sequence.num_published = self.cache.publish(
                sequence.salt, sequence.tokens[: sequence.num_computed], sequence.table, shared
            )
        if source is not None and restored:
            self.cache.release(source)
        elif source is not None:
            self._pinned.append(source)
            target = sequence.table.blocks[shared]
            step.copies.append((source, target, prefix.tail_tokens))
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
        sequence.state = State.RUNNING
        self.waiting.remove(sequence)
        self.running.append(sequence)
        return True

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        if self.limits.chunk is None:
            return min(sequence.num_missing, budget)
        # What a prompt's chunks are, and that answers come one by one, follows from it alone.
        if sequence.num_computed >= sequence.num_prompt:
            return 1
        end = (sequence.num_computed // self.limits.chunk + 1) * self.limits.chunk
        return min(end, sequence.num_prompt) - sequence.num_computed

    def _highest(self, sequence: Sequence, count: int) -> int:
        """Return the highest block that the next ``count`` tokens see."""
        return max(sequence.table.blocks[: self.cache.blocks_for(sequence.num_computed + count)])

    def _within_memory(self, count: int, before: int, bound: int) -> int:
        most = self.limits.score_cells // ((bound + 1) * self.cache.block_size) - before
        # A step of one token is always possible.
        return min(count, max(most, 0 if before else 1))

    def _make_room(self, sequence: Sequence, step: Step) -> bool:
        """Get a block for one more token, from the last that runs if there is no other."""
        needed = self.cache.blocks_for(sequence.num_computed + 1) - len(sequence.table)
        if needed <= 0:
            return True
        while needed > self.cache.num_available:
            victim = self.running[-1]
            if victim is sequence and len(self.running) == 1:
                step.out_of_room.append(sequence)
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        self._grow(sequence, sequence.num_computed + 1)
        return True

    def _grow(self, sequence: Sequence, num_tokens: int) -> None:
        for _ in range(self.cache.blocks_for(num_tokens) - len(sequence.table)):
            sequence.table.append(self.cache.allocate())

    def _preempt(self, sequence: Sequence) -> None:
        self._give_back(sequence)
        self.running.remove(sequence)
        sequence.state = State.WAITING
        sequence.preemptions += 1
        self.preemptions += 1
        bisect.insort(self.waiting, sequence, key=lambda each: each.arrival)

    def _give_back(self, sequence: Sequence) -> None:
        known = sequence.tokens[: sequence.num_computed]
        self.cache.publish_tail(sequence.salt, known, sequence.table)
        self.cache.release_table(sequence.table)
        sequence.num_computed = sequence.num_published = 0


def _follows(sequence: Sequence) -> bool:
    """Return whether a sequence waits for another with the same prompt."""
    leader = sequence.leader
    if leader is None or leader.state is State.FINISHED:
        return False
    return leader.num_computed < leader.num_prompt
