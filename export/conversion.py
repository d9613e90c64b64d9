"""The conversion of one engine: from the beginning, or from where an interrupted build stopped."""

from __future__ import annotations

from collections.abc import Callable

from trtcoder.bundle.writer import BundleWriter
from trtcoder.export.calibration.calibrate import Calibration
from trtcoder.export.targets.target import EnginePlan, journal_key, write_engine
from trtcoder.export.weights.journal import Journal
from trtcoder.export.weights.plan import Step
from trtcoder.export.weights.writer import Written
from trtcoder.progress import byte_progress

Say = Callable[[str], None]


def convert(
    plan: EnginePlan, writer: BundleWriter, calibration: Calibration | None, say: Say
) -> Written:
    """Write an engine's files, or what an interrupted build has left of them to write.

    Raises:
        BuildError: the disk is full, or the plan contradicts itself.
        CheckpointError: a shard cannot be read.
    """
    known = calibration.plan() if calibration else None
    key = journal_key(plan, calibration=known)
    journal = Journal(writer.journal, key, plan.checkpoint.identity())
    if journal.steps:
        say(f"going on with the interrupted build: {len(journal.steps):,} steps are done")
        writer.clear(*plan.data_files)
    else:
        if journal.note:
            say(f"starting over: {journal.note}")
        writer.clear()
    steps = plan.weights.steps
    with byte_progress("converting", sum(step.nbytes for step in steps)) as advance:
        if calibration is not None:
            calibration.attach(plan.weights, lambda item: advance(0, item))

        def on_step(step: Step) -> None:
            advance(step.nbytes, step.key)

        written = write_engine(
            plan,
            writer.folder,
            on_step=on_step,
            on_item=lambda item: advance(0, item),
            journal=journal,
            stages=calibration,
        )
    if written.again:
        say(
            f"{written.again:,} of these steps ran again: what they had read or written has changed"
        )
    return written
