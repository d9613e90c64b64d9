"""Finds out which steps of an interrupted build are still true.

A journal says what was; files may have changed since. A step is gone on with when the tensors that
it read have the bytes that they had then, and its part of the sink has the bytes that it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cores import available_cores
from trtcoder.export.weights.journal import Finished, Journal
from trtcoder.export.weights.plan import Step, WeightPlan
from trtcoder.export.weights.sink import Sink

OnStep = Callable[[Step], None]
OnItem = Callable[[str], None]


def still_true(
    plan: WeightPlan,
    sink: Sink,
    checkpoint: Checkpoint | None,
    journal: Journal,
    on_step: OnStep,
    on_item: OnItem,
) -> dict[str, Finished]:
    """Return the journal's steps that need not run again, and let the journal forget the others.

    The sink's part is read at the disk's speed, by all cores. The checkpoint's tensors are only
    read where the system says that a file has changed.

    Args:
        plan: has the steps.
        sink: what they have written.
        checkpoint: what they have read.
        journal: what they have noted.
        on_step: told of each step that is found to be true, but for a calibrated build, which may
            still turn out to be unable to go on.
        on_item: told what is being looked at.
    """
    steps = {step.key: step for step in plan.steps}
    known = {
        key: finished
        for key, finished in journal.steps.items()
        if key in steps and len(finished.parts) == len(steps[key].fills)
    }
    if checkpoint is not None and journal.sources_changed:
        known = dict(_of_the_same_tensors(steps, known, checkpoint, on_item))

    def is_stored(key: str) -> bool:
        pairs = zip(steps[key].fills, known[key].parts, strict=True)
        return all(sink.digest(rows) == digest for rows, digest in pairs)

    found: dict[str, Finished] = {}
    with ThreadPoolExecutor(available_cores()) as pool:
        for key, stored in zip(known, pool.map(is_stored, known), strict=True):
            on_item(f"checking {key}")
            if stored:
                found[key] = known[key]
            if stored and journal.stage < 0:
                on_step(steps[key])
    if journal.stage >= 0 and any(
        step.key not in found for step in plan.steps if step.stage <= journal.stage
    ):
        # What a stage has observed is kept for the last one only.
        found = {}
    if len(found) < len(journal.steps) or journal.sources_changed:
        journal.keep(found)
    return found


def _of_the_same_tensors(
    steps: Mapping[str, Step],
    known: Mapping[str, Finished],
    checkpoint: Checkpoint,
    on_item: OnItem,
) -> Iterator[tuple[str, Finished]]:
    """Return the steps whose tensors have the digests that they had."""
    digests = {
        name: digest
        for finished in known.values()
        for name, digest in finished.digests.items()
        if name in checkpoint.tensors
    }
    same = digests.keys() - set(
        checkpoint.changed(digests, lambda size, name: on_item(f"comparing {name}"))
    )
    for key, finished in known.items():
        if same.issuperset(steps[key].sources) and same.issuperset(finished.digests):
            yield key, finished
