"""Mixed precision: the smallest engine that keeps a KL, or the best engine of a size.

What each class of tensors loses by each scheme, rounded to nearest, is measured once
(`export.precision.sensitivity`). The engine's own quantizer does better, by a factor that is
learned from the engines that are built: each is verified, and the next choice is made with what
the last one showed.

A limit for the KL is searched on one half of the held-out text and judged on the other, which took
no part in the search.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from trtcoder.bundle.provenance import Goal
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.budget import Choice, Choices
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.calib.text.heldout import Part, load_heldout
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError, TrtcoderError
from trtcoder.export.conversion import Say
from trtcoder.export.pipeline import Built, commit, verify
from trtcoder.export.precision.measured import measured_options
from trtcoder.export.precision.rounds import Rounds, Tried
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets.registry import find_target
from trtcoder.prompting.source import Prompting

# Experts' matrices lie in one kernel, whose blocks have one size.
ALIKE = (("experts_gate_up", "experts_down"),)
ROUNDS = 4
# About what a tensor's row of the certificate takes.
_RECORD_BYTES = 300
# Text that sensitivity is measured on: it ranks classes, and what it says is checked by building.
_TOKENS = 4096
# A further round that saves less than this share of the bytes is not worth a build.
_WORTH = 0.005
# The search stays below the limit by this factor, since the mean KL of the text that judges is
# another: it differs by some percent between two sets of a thousand tokens. Each engine that is
# judged and misses lowers the mark once more.
_MARGIN = 0.9
_JUDGEMENTS = 3


def check_goal(goal: Goal, weights: str) -> None:
    """Raise BuildError where a goal does not go with the precision ``weights``."""
    both = goal.max_kl is not None and goal.target_bytes is not None
    if both or (weights == "mixed" and goal.max_kl is None and goal.target_bytes is None):
        raise BuildError("mixed precision wants one of --max-kl and --target-size")
    if goal.target_bytes is not None and weights != "mixed":
        raise BuildError(
            f"--target-size chooses the precision itself; leave out --weights {weights}"
        )
    for option, value in (("--max-kl", goal.max_kl), ("--target-size", goal.target_bytes)):
        if value is not None and not (math.isfinite(value) and value > 0):
            what = "not above zero" if value <= 0 else "not a finite number"
            raise BuildError(f"{option}: {value} is {what}")


def build_mixed(
    source: Checkpoint,
    prompting: Prompting,
    request: BuildRequest,
    goal: Goal,
    writer: BundleWriter,
    say: Say,
) -> Built:
    """Build the engine that meets ``goal`` (`request.recipe` gives all but the schemes).

    Raises:
        BuildError: no choice of schemes is good, or small, enough.
        ParityError: none that was built keeps the limit.
        RequestError: the held-out text cannot be used, or be divided.
    """
    limit = goal.max_kl
    request = dataclasses.replace(
        request, max_kl=limit, part=None if limit is None else Part.SEARCHED
    )
    # A fault of the text should not wait for the measurement to end.
    for part in Part if limit is not None else (None,):
        load_heldout(prompting.prompts(), request.tokens, request.text, part)
    plan = find_target(request.target).plan(source, request.recipe)
    text = dataclasses.replace(request, calibration_tokens=_TOKENS).calibration_text(prompting)
    path = writer.workspace / "sensitivity.json"
    options = measured_options(source, plan.weights, text, path, say)
    choices = Choices(options, ALIKE)
    rounds = Rounds(source, prompting, request, goal, options, writer, say)
    if limit is not None:
        return _smallest(source, request, limit, choices, rounds, writer, say)
    if goal.target_bytes is None:
        raise BuildError("mixed precision needs a limit; give --max-kl or --target-size")
    beside = overhead(source, request, choices.smallest(float("inf")))
    return commit(_fitting(choices, rounds, goal.target_bytes, beside), writer, request.gated)


def _smallest(
    source: Checkpoint,
    request: BuildRequest,
    limit: float,
    choices: Choices,
    rounds: Rounds,
    writer: BundleWriter,
    say: Say,
) -> Built:
    """Search on one half of the text, and judge what is found on the other."""
    search = _Search(choices, rounds, say)
    judged: Built | None = None
    for attempt in range(1, _JUDGEMENTS + 1):
        found = search.below(limit * _MARGIN**attempt)
        if found is None and judged is None:
            break
        if found is None:
            continue
        searched = rounds.engine(found)
        judging = dataclasses.replace(request, part=Part.JUDGED)
        known = searched.certificate.provenance
        if known.plan is not None:
            plan = dataclasses.replace(known.plan, search_text=searched.certificate.text)
            known = dataclasses.replace(known, plan=plan)
        certificate = verify(source, searched.manifest, judging, writer, known)
        judged = dataclasses.replace(searched, certificate=certificate)
        if certificate.verdict == "passed":
            break
        kl = certificate.logits.kl_mean
        say(f"on the text that judges, the mean KL is {kl:.3g}, limit {limit:.3g}")
        search.reject(found)
    if judged is None:
        # Its certificate says by how much it misses the limit.
        return commit(rounds.engine(search.last()), writer, request.gated)
    return commit(judged, writer, request.gated)


class _Search:
    """Looks for the fewest bytes whose measured KL is below a mark."""

    def __init__(self, choices: Choices, rounds: Rounds, say: Say) -> None:
        self._choices, self._rounds, self._say = choices, rounds, say
        self._tried: list[Tried] = []
        self._rejected: list[Mapping[str, Scheme]] = []
        # Of the engine's KL to what is expected: its quantizer does better than sensitivity's.
        self._ratio = 1.0

    def below(self, mark: float) -> Tried | None:
        """Return the smallest engine with a KL below ``mark``, or else one that keeps the limit.

        What was found stays found: a round that fails behind it ends the search, and no more.

        Raises:
            BuildError: no choice is expected to be that good, and none was built that is.
        """
        best: Tried | None = None
        for _ in range(ROUNDS):
            try:
                choice = self._choices.smallest(mark / self._ratio)
                known = next((t for t in self._tried if t.choice.schemes == choice.schemes), None)
                if known is not None or self._is_hardly_smaller(choice, best, mark):
                    if best is None and known is not None and self._keeps_limit(known):
                        best = known
                    break
                tried = self._rounds.build(choice, mark / self._ratio)
            except (TrtcoderError, OSError, MemoryError) as error:
                if best is None and not self._tried:
                    raise
                self._say(f"the search ends here: {error}")
                break
            self._tried.append(tried)
            measured = tried.round.measured_kl
            if not math.isfinite(measured):
                break
            if self._keeps_limit(tried) and self._is_better(tried, best, mark):
                best = tried
                self._rounds.keep(tried)
            self._ratio = measured / max(choice.kl, 1e-30)
            if measured > mark:
                # A little more than it took: the next choice is a step away, not on a slope.
                self._ratio *= 1.02
        return best

    def reject(self, tried: Tried) -> None:
        """Never return ``tried`` again."""
        self._rejected.append(tried.choice.schemes)

    def last(self) -> Tried:
        """Return the last engine that was built."""
        return self._tried[-1]

    def _is_hardly_smaller(self, choice: Choice, best: Tried | None, mark: float) -> bool:
        return (
            best is not None
            and best.round.measured_kl <= mark
            and choice.nbytes > best.choice.nbytes * (1 - _WORTH)
        )

    def _keeps_limit(self, tried: Tried) -> bool:
        return tried.passed and tried.choice.schemes not in self._rejected

    def _is_better(self, tried: Tried, best: Tried | None, mark: float) -> bool:
        measured = tried.round.measured_kl
        if best is None or best.round.measured_kl > mark >= measured:
            return True
        return measured <= mark and tried.choice.nbytes < best.choice.nbytes


def _fitting(choices: Choices, rounds: Rounds, target: int, beside: int) -> Built:
    """Return the best engine of at most ``target`` bytes, certificate and all."""
    room = target - beside
    for _ in range(ROUNDS):
        choice = choices.best(room)
        tried = rounds.build(choice, choice.kl)
        built = rounds.engine(tried)
        excess = tried.round.bytes + len(built.certificate.to_json()) - target
        if excess <= 0:
            return built
        room = choice.nbytes - excess
    raise BuildError(f"no engine fits into {target:,} bytes; {excess:,} are missing")


def overhead(source: Checkpoint, request: BuildRequest, choice: Choice) -> int:
    """Return the bytes of an engine beside those that a choice counts."""
    recipe = dataclasses.replace(request.recipe, schemes=choice.schemes)
    plan = find_target(request.target).plan(source, recipe)
    records = len(plan.weights.matrices) + len(plan.weights.declared)
    return plan.nbytes - choice.nbytes + records * _RECORD_BYTES
