"""What a build would end with, from the configuration alone: `trtcoder build --dry-run`.

The schemes of mixed precision are chosen by what the weights lose, and no weight has been read.
What can be known is the room: the smallest and the largest engine, and whether a size can be met.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from trtcoder.bundle.provenance import Goal
from trtcoder.calib.budget import Choice, Choices, Option
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.precision.measured import candidates
from trtcoder.export.precision.mixed import ALIKE, ROUNDS, overhead
from trtcoder.export.precision.sensitivity import stored_bytes
from trtcoder.export.precision.sizing import Sizing, estimate
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets.registry import find_target


@dataclass(frozen=True, slots=True)
class Forecast:
    """The engines that a build may end with.

    Attributes:
        goal: the limit or the size that was asked for, if any.
        mixed: whether schemes are chosen by it; otherwise they are given.
        smallest: the smallest engine; the engine itself where the schemes are given.
        largest: the largest; with a size, the largest that it has room for.
    """

    goal: Goal
    mixed: bool
    smallest: Sizing
    largest: Sizing

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        if not self.mixed:
            return {**self.smallest.to_dict(), "unknown": self._unknown}
        return {
            "goal": dataclasses.asdict(self.goal),
            "unknown": self._unknown,
            "smallest": self.smallest.to_dict(),
            "largest": self.largest.to_dict(),
        }

    def render(self) -> str:
        """Return it as plain text."""
        if not self.mixed:
            return "\n\n".join(filter(None, [self.smallest.render(), self._unknown]))
        low, high = (sizing.written / 1e6 for sizing in (self.smallest, self.largest))
        if self.goal.target_bytes is not None:
            sought = f"the best engine of at most {self.goal.target_bytes:,} bytes"
        else:
            sought = f"the smallest engine with a mean KL of at most {self.goal.max_kl:g} nats"
        return "\n".join(
            [
                f"{sought}: {low:,.1f} to {high:,.1f} MB of weights; {self._unknown}",
                "the weights are measured first, then engines are built and verified one after "
                f"another, seldom more than {ROUNDS}",
                "",
                "the smallest:",
                self.smallest.render(),
                "",
                "the largest:",
                self.largest.render(),
            ]
        )

    @property
    def _unknown(self) -> str | None:
        """What only the weights can tell."""
        if self.mixed:
            return "which schemes are chosen is known when the weights are measured"
        if self.goal.max_kl is None:
            return None
        return f"whether the mean KL is at most {self.goal.max_kl:g} is known when it is verified"


def forecast(source: Checkpoint, request: BuildRequest, goal: Goal) -> Forecast:
    """Return what a build of ``request`` would end with; ``source`` may be described only.

    Raises:
        BuildError: no engine is so small as ``goal`` asks.
    """
    target = find_target(request.target)
    plan = target.plan(source, request.recipe)
    if request.recipe.weights != "mixed":
        sizing = estimate(plan)
        return Forecast(goal, False, sizing, sizing)
    # Every scheme is taken to be as good as its bytes are many: the best is then the largest.
    options = {
        kind: [
            Option(scheme, size, -float(size))
            for scheme in schemes
            for size in [stored_bytes(plan.weights.matrices, kind, scheme)]
        ]
        for kind, schemes in candidates(source).items()
    }
    choices = Choices(options, ALIKE)
    smallest = choices.smallest(float("inf"))
    if goal.target_bytes is None:
        largest = choices.best(sys.maxsize)
    else:
        largest = choices.best(goal.target_bytes - overhead(source, request, smallest))

    def sized(choice: Choice) -> Sizing:
        recipe = dataclasses.replace(request.recipe, schemes=choice.schemes)
        return estimate(target.plan(source, recipe))

    return Forecast(goal, True, sized(smallest), sized(largest))
