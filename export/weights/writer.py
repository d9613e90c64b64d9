"""Streams a plan's weights into a sink, several conversion steps at a time.

The bytes never depend on timing: two builds of the same checkpoint are identical, and so is one
that was interrupted and went on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trtcoder.calib.storage.record import TensorRecord
from trtcoder.checkpoint.finite import first_not_finite
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.shard import blake3
from trtcoder.cores import available_cores
from trtcoder.errors import BuildError, CheckpointError
from trtcoder.export.weights.journal import Finished, Journal
from trtcoder.export.weights.plan import Part, Step, WeightPlan
from trtcoder.export.weights.resume import OnItem, OnStep, still_true
from trtcoder.export.weights.sink import Sink

# Steps at work or waiting for it: enough that the disk is never idle while the cores compute.
WORKERS_PER_CORE = 2
_WAITING_PER_WORKER = 2
# How many steps ahead the system is asked to read from the disk.
_PREFETCHED = 8
# The journal is written when this much data, or what came in this time, is on the disk.
_COMMIT_BYTES = 1 << 28
_COMMIT_SECONDS = 5.0

# Tensors that an error lists.
_SHOWN = 8


class Stages(Protocol):
    """What happens around the stages of a calibrated build; `Calibration` does."""

    def before_stage(self, stage: int) -> None:
        """Prepare a stage whose steps are about to run."""

    def after_stage(self, stage: int) -> None:
        """Go on from a stage whose steps have run."""

    def save(self, stage: int) -> Mapping[str, object]:
        """Keep what the stages behind this one need, on the disk and in the returned state."""

    def restore(self, stage: int, state: Mapping[str, object]) -> bool:
        """Go back to where `save` was called; return whether what it kept is still as it was."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        records: what each stored tensor lost, in the plan's order.
        digests: hash of each checkpoint tensor, where a checkpoint was given.
        hashes: sha256 of each file of the sink.
        again: steps of an interrupted build that were run again, since what they had read or
            written has changed.
    """

    records: list[TensorRecord]
    digests: dict[str, str]
    hashes: dict[str, str]
    again: int = 0


def write_weights(
    plan: WeightPlan,
    sink: Sink,
    *,
    on_step: OnStep = lambda step: None,
    on_item: OnItem = lambda item: None,
    checkpoint: Checkpoint | None = None,
    journal: Journal | None = None,
    stages: Stages | None = None,
) -> Written:
    """Run every step and write what it produces to ``sink``.

    Args:
        plan: has the steps and the declared weights.
        sink: with a journal, it has what the interrupted build wrote.
        on_step: told of each finished step, in the caller's thread.
        on_item: told what is looked at of an interrupted build.
        checkpoint: its tensors are hashed on the way, each when it is first read.
        journal: finished steps that are still true are left out, and new ones noted.
        stages: a calibrated build, whose stages run one after another.

    Raises:
        BuildError: the steps do not fill the plan, or one of them makes what it does not declare;
            or the disk is full.
        CheckpointError: a shard cannot be read, was changed meanwhile, or has a value that is not
            finite.
    """
    plan.check()
    known, again = {}, 0
    sources = None if checkpoint is None else checkpoint.identity()
    if journal is not None and journal.steps:
        before = len(journal.steps)
        known = still_true(plan, sink, checkpoint, journal, on_step, on_item)
        if stages is not None and known:
            if not stages.restore(journal.stage, journal.state):
                journal.restart()
                known = {}
            for step in plan.steps:
                if step.key in known:
                    on_step(step)
        again = before - len(known)
    writer = _Writer(plan, sink, known, on_step, checkpoint, None if stages else journal)
    if stages is None:
        writer.run(plan.steps)
    else:
        _run_stages(plan, sink, writer, stages, journal)
    hashes = sink.finish()
    finished = [writer.finished[step.key] for step in plan.steps]
    digests = {name: digest for step in finished for name, digest in step.digests.items()}
    if checkpoint is not None:
        if checkpoint.identity() != sources:
            _check_unchanged(checkpoint, digests, on_item)
        # Buffers that some converters save and no step reads.
        left = checkpoint.tensors.keys() - digests.keys()
        digests |= {name: checkpoint.tensor_digest(name) for name in left}
    records = [record for step in finished for record in step.records]
    return Written(records, digests, hashes, again)


def _run_stages(
    plan: WeightPlan, sink: Sink, writer: _Writer, stages: Stages, journal: Journal | None
) -> None:
    done = -1 if journal is None else journal.stage
    for stage in sorted({step.stage for step in plan.steps if step.stage > done}):
        steps = [step for step in plan.steps if step.stage == stage]
        stages.before_stage(stage)
        writer.run(steps)
        stages.after_stage(stage)
        if journal is not None:
            # A stage's steps depend on what it observed, so it is noted as a whole.
            state = stages.save(stage)
            sink.sync()
            journal.finish_stage(stage, [writer.finished[step.key] for step in steps], state)


def _check_unchanged(checkpoint: Checkpoint, digests: Mapping[str, str], on_item: OnItem) -> None:
    changed = checkpoint.changed(digests, lambda size, name: on_item(f"comparing {name}"))
    if changed:
        raise CheckpointError(
            f"{checkpoint.folder}: {', '.join(changed[:_SHOWN])} "
            f"{'and others ' if len(changed) > _SHOWN else ''}changed while it was read; run the "
            "same command again when the files stay as they are"
        )


class _Writer:
    """Runs steps in threads, writes their parts, and notes them in the journal."""

    def __init__(
        self,
        plan: WeightPlan,
        sink: Sink,
        known: Mapping[str, Finished],
        on_step: OnStep,
        checkpoint: Checkpoint | None,
        journal: Journal | None,
    ) -> None:
        self.finished: dict[str, Finished] = dict(known)
        self._plan, self._sink = plan, sink
        self._on_step = on_step
        self._checkpoint = checkpoint
        self._journal = journal
        self._hashed = _first_readers(plan.steps) if checkpoint is not None else {}
        self._workers = WORKERS_PER_CORE * available_cores()
        self._pending: list[Finished] = []
        self._pending_bytes = 0
        self._committed = time.monotonic()
        for step in plan.steps:
            if step.key in known:
                self._add_filled(step)

    def run(self, steps: Iterable[Step]) -> None:
        """Run the steps that are not finished."""
        from threadpoolctl import threadpool_limits

        # The steps are what runs in parallel; matmuls that each start threads would wait for
        # one another, and round by how many cores there are.
        with threadpool_limits(1, "blas"):
            self._run(steps)

    def _run(self, steps: Iterable[Step]) -> None:
        waiting = deque(step for step in steps if step.key not in self.finished)
        running: dict[Future[tuple[Finished, int]], Step] = {}
        committer = ThreadPoolExecutor(1)
        pool = ThreadPoolExecutor(self._workers)
        commits: list[Future[None]] = []
        try:
            while waiting or running:
                while waiting and len(running) < self._workers * _WAITING_PER_WORKER:
                    self._prefetch(waiting)
                    step = waiting.popleft()
                    running[pool.submit(self._run_step, step)] = step
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step = running.pop(future)
                    finished, written = future.result()
                    self.finished[step.key] = finished
                    self._add_filled(step)
                    self._pending.append(finished)
                    self._pending_bytes += written
                    self._on_step(step)
                for commit in commits:
                    if commit.done():
                        commit.result()
                if self._is_commit_due():
                    commits.append(committer.submit(self._commit, self._take_pending()))
        finally:
            pool.shutdown(cancel_futures=True)
            commits.append(committer.submit(self._commit, self._take_pending()))
            committer.shutdown()
        for commit in commits:
            commit.result()

    def _run_step(self, step: Step) -> tuple[Finished, int]:
        digests: dict[str, str] = {}
        if self._checkpoint is None:
            made = step.produce()
        else:
            with self._checkpoint.hashing(self._hashed.get(step.key, [])) as digests:
                made = step.produce()
        parts = {part.rows: part for part in made.parts}
        if len(parts) != len(made.parts) or parts.keys() != set(step.fills):
            raise BuildError(
                f"{step.key}: made {sorted(map(str, parts))}, declared "
                f"{sorted(map(str, step.fills))}"
            )
        written, hashes = 0, []
        for rows in step.fills:
            part = parts[rows]
            self._check_finite(step, part)
            written += self._sink.write(step, part)
            hashes.append(_digest(part))
        return Finished(step.key, tuple(made.records), tuple(hashes), digests), written

    def _add_filled(self, step: Step) -> None:
        filled: Counter[str] = Counter()
        for rows in step.fills:
            filled[rows.weight] += rows.stop - rows.start
        self._sink.add_filled(filled)

    def _check_finite(self, step: Step, part: Part) -> None:
        """Raise BuildError where finite weights gave a value that is not, such as a scale."""
        dtype = self._plan.declared[part.weight].dtype
        where = None if dtype.is_whole else first_not_finite(part.value, dtype.value)
        if where is not None:
            place = [part.start + where[0], *where[1:]]
            raise BuildError(
                f"{part.weight}{place}: {step.key} makes a value that is not finite; use another "
                "--method or --weights fp32"
            )

    def _prefetch(self, waiting: deque[Step]) -> None:
        if self._checkpoint is not None and len(waiting) > _PREFETCHED:
            for name in self._hashed.get(waiting[_PREFETCHED].key, ()):
                self._checkpoint.prefetch(name)

    def _is_commit_due(self) -> bool:
        late = time.monotonic() - self._committed > _COMMIT_SECONDS
        return self._journal is not None and (late or self._pending_bytes > _COMMIT_BYTES)

    def _take_pending(self) -> list[Finished]:
        pending, self._pending = self._pending, []
        self._pending_bytes, self._committed = 0, time.monotonic()
        return pending

    def _commit(self, pending: list[Finished]) -> None:
        if self._journal is not None and pending:
            self._sink.sync()
            self._journal.add(pending)


def _first_readers(steps: Iterable[Step]) -> dict[str, list[str]]:
    """Return the checkpoint tensors that each step is the first to read."""
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for step in steps:
        new = [name for name in dict.fromkeys(step.sources) if name not in seen]
        seen.update(new)
        found[step.key] = new
    return found


def _digest(part: Part) -> str:
    """Return the BLAKE3 hash of a part as a sink stores it."""
    digest = blake3()
    digest.update(np.ascontiguousarray(part.value).reshape(-1).view(np.uint8).data)
    return str(digest.hexdigest())
