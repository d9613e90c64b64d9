"""Streams a plan's weights into a sink, several conversion steps at a time.

The bytes never depend on timing: two builds of the same checkpoint are identical, and so is one
that was interrupted and went on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from trtcoder.calib.storage.record import TensorRecord
from trtcoder.checkpoint.finite import first_not_finite
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cores import available_cores
from trtcoder.errors import BuildError
from trtcoder.export.weights.journal import Finished, Journal
from trtcoder.export.weights.plan import Part, Step, WeightPlan
from trtcoder.export.weights.sink import Sink

# Steps at work or waiting for it: enough that the disk is never idle while the cores compute.
WORKERS_PER_CORE = 2
_WAITING_PER_WORKER = 2
# How many steps ahead the system is asked to read from the disk.
_PREFETCHED = 8
# The journal is written when this much data, or what came in this time, is on the disk.
_COMMIT_BYTES = 1 << 28
_COMMIT_SECONDS = 5.0

OnStep = Callable[[Step], None]


class Stages(Protocol):
    """What happens around the stages of a calibrated build (`export.calibrate.Calibration`)."""

    def before_stage(self, stage: int) -> None:
        """Prepare a stage whose steps are about to run."""

    def after_stage(self, stage: int) -> None:
        """Go on from a stage whose steps have run."""

    def save(self, stage: int) -> Mapping[str, object]:
        """Keep what the stages behind this one need, on the disk and in the returned state."""

    def restore(self, stage: int, state: Mapping[str, object]) -> None:
        """Go back to where `save` was called."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        records: what each stored tensor lost, in the plan's order.
        digests: hash of each checkpoint tensor, where a checkpoint was given.
        hashes: sha256 of each file of the sink.
    """

    records: list[TensorRecord]
    digests: dict[str, str]
    hashes: dict[str, str]


def write_weights(
    plan: WeightPlan,
    sink: Sink,
    *,
    on_step: OnStep = lambda step: None,
    checkpoint: Checkpoint | None = None,
    journal: Journal | None = None,
    stages: Stages | None = None,
) -> Written:
    """Run every step and write what it produces to ``sink``.

    Args:
        plan: has the steps and the declared weights.
        sink: with a journal, what it says is finished must be in it.
        on_step: told of each finished step, in the caller's thread.
        checkpoint: its tensors are hashed on the way, each when it is first read.
        journal: finished steps are left out and new ones noted.
        stages: a calibrated build, whose stages run one after another.

    Raises:
        BuildError: the disk is full, or a step fills what was not declared, in another type or
            shape, or something that was declared stays unfilled.
        CheckpointError: a shard cannot be read.
    """
    writer = _Writer(plan, sink, on_step, checkpoint, journal, stages is not None)
    if stages is None:
        writer.run(plan.steps)
    else:
        _run_stages(plan, writer, stages, journal)
    finished = [writer.finished[step.key] for step in plan.steps]
    _check_filled(plan, finished)
    hashes = sink.finish()
    digests = {name: digest for step in finished for name, digest in step.digests.items()}
    if checkpoint is not None:
        # Buffers that some converters save and no step reads.
        left = checkpoint.tensors.keys() - digests.keys()
        digests |= {name: checkpoint.tensor_digest(name) for name in left}
    records = [record for step in finished for record in step.records]
    return Written(records, digests, hashes)


def _run_stages(plan: WeightPlan, writer: _Writer, stages: Stages, journal: Journal | None) -> None:
    done = -1
    if journal is not None and journal.stage >= 0:
        done = journal.stage
        stages.restore(done, journal.state)
    for stage in sorted({step.stage for step in plan.steps}):
        steps = [step for step in plan.steps if step.stage == stage]
        if stage <= done:
            writer.run(steps)
            continue
        # A stage's steps depend on what it observed, so it is done again as a whole.
        writer.forget(steps)
        stages.before_stage(stage)
        writer.run(steps)
        stages.after_stage(stage)
        if journal is not None:
            journal.finish_stage(stage, stages.save(stage))


class _Writer:
    """Runs steps in threads, writes their parts, and notes them in the journal."""

    def __init__(
        self,
        plan: WeightPlan,
        sink: Sink,
        on_step: OnStep,
        checkpoint: Checkpoint | None,
        journal: Journal | None,
        by_stage: bool,
    ) -> None:
        self._plan, self._sink = plan, sink
        self.finished: dict[str, Finished] = dict(journal.steps) if journal is not None else {}
        # A stage that is not whole is done again, so its parts may still change.
        self._stable = journal.stage if journal is not None and by_stage else None
        for step in plan.steps:
            if step.key in self.finished and (self._stable is None or step.stage <= self._stable):
                self._sink.add_filled(self.finished[step.key].filled)
        self._on_step = on_step
        self._checkpoint = checkpoint
        self._journal = journal
        self._hashed = _first_readers(plan.steps) if checkpoint is not None else {}
        self._workers = WORKERS_PER_CORE * available_cores()
        self._pending: list[Finished] = []
        self._pending_bytes = 0
        self._committed = time.monotonic()

    def forget(self, steps: Iterable[Step]) -> None:
        """Let steps run again."""
        for step in steps:
            self.finished.pop(step.key, None)

    def run(self, steps: Iterable[Step]) -> None:
        """Run the steps that are not finished."""
        from threadpoolctl import threadpool_limits

        # The steps are what runs in parallel; matmuls that each start threads would wait for
        # one another, and round by how many cores there are.
        with threadpool_limits(1, "blas"):
            self._run(steps)

    def _run(self, steps: Iterable[Step]) -> None:
        waiting: deque[Step] = deque()
        for step in steps:
            if step.key in self.finished:
                self._on_step(step)
            else:
                waiting.append(step)
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
                    self._sink.add_filled(finished.filled)
                    self._pending.append(finished)
                    self._pending_bytes += written
                    self._on_step(step)
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
        written = 0
        filled: Counter[str] = Counter()
        for part in made.parts:
            self._check_finite(step, part)
            written += self._sink.write(step, part)
            filled[part.weight] += len(part.value)
        return Finished(step.key, made.records, dict(filled), digests), written

    def _check_finite(self, step: Step, part: Part) -> None:
        """Raise BuildError where finite weights gave a value that is not, such as a scale."""
        stored = self._plan.weights[part.weight].dtype.value
        where = None if stored == "U8" else first_not_finite(part.value, stored)
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


def _check_filled(plan: WeightPlan, finished: Iterable[Finished]) -> None:
    filled: Counter[str] = Counter()
    for step in finished:
        filled.update(step.filled)
    missing = [name for name, weight in plan.weights.items() if filled[name] != weight.shape[0]]
    if missing:
        raise BuildError(f"no step fills all of {', '.join(missing)}")
