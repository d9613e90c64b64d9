"""Mixed precision: the smallest engine that keeps a KL, or the best engine of a size.

What each class of tensors loses by each scheme, rounded to nearest, is measured once
(`export.precision.sensitivity`). The engine's own quantizer does better, by a factor that is
learned from the engines that are built: each is verified, and the next choice is made with what
the last one showed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trtcoder.bundle.provenance import Goal, Plan, PlannedClass, PlannedOption, Round
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.budget import Choice, Choices, Option
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.pipeline import (
    BuildRequest,
    Built,
    Say,
    calibration_text,
    commit,
    make_engine,
)
from trtcoder.export.precision.sensitivity import measure
from trtcoder.export.recipe import SCHEMED
from trtcoder.export.targets.registry import find_target
from trtcoder.progress import step_progress
from trtcoder.prompting.source import Prompting

CANDIDATES = tuple(
    Scheme(bits, size, symmetric)
    for bits, sizes in ((4, (128, 64, 32)), (8, (128, 32)))
    for size in sizes
    for symmetric in (True, False)
)
# Experts' matrices lie in one kernel, whose blocks have one size.
ALIKE = (("experts_gate_up", "experts_down"),)
ROUNDS = 4
# About what a tensor's row of the certificate takes.
_RECORD_BYTES = 300
# Text that sensitivity is measured on: it ranks classes, and what it says is checked by building.
_TOKENS = 4096
# A further round that saves less than this share of the bytes is not worth a build.
_WORTH = 0.005


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
    """
    options = _sensitivity(source, prompting, request, writer, say)
    choices = Choices(options, ALIKE)
    search = _Search(source, prompting, request, goal, options, writer, say)
    if goal.target_bytes is not None:
        return commit(search.fit(choices, goal.target_bytes), writer, request.gated)
    limit = goal.max_kl
    if limit is None:
        raise BuildError("mixed precision needs a limit; give --max-kl or --target-size")
    best: Built | None = None
    smallest, ratio = float("inf"), 1.0
    tried: list[dict[str, Scheme]] = []
    for _ in range(ROUNDS):
        choice = choices.smallest(limit / ratio)
        if choice.schemes in tried or choice.nbytes > smallest * (1 - _WORTH):
            break
        tried.append(choice.schemes)
        built = search.build(choice, limit / ratio)
        measured = built.certificate.logits.kl_mean
        if measured <= limit:
            best, smallest = built, choice.nbytes
            search.keep()
        ratio = measured / choice.kl
        if measured > limit:
            # A little more than it took: the next choice is a step away, not on a slope.
            ratio *= 1.02
    if best is None:
        return commit(built, writer)
    search.use_kept()
    return commit(search.explained(best), writer)


class _Search:
    """Builds choices one after another, and keeps the best engine aside."""

    def __init__(
        self,
        source: Checkpoint,
        prompting: Prompting,
        request: BuildRequest,
        goal: Goal,
        options: Mapping[str, Sequence[Option]],
        writer: BundleWriter,
        say: Say,
    ) -> None:
        self._source, self._prompting, self._request = source, prompting, request
        self._goal, self._options, self._writer, self._say = goal, options, writer, say
        self._rounds: list[Round] = []
        self._values: Counter[str] = Counter()
        plan = find_target(request.target).plan(source, request.recipe)
        for stored in plan.weights.matrices.values():
            self._values[stored.kind] += stored.source.rows * stored.source.width
        self._kept = writer.workspace / "kept"

    def fit(self, choices: Choices, target: int) -> Built:
        """Build the best choice of at most ``target`` bytes, certificate and all."""
        room = target - self._overhead(choices.smallest(float("inf")))
        for _ in range(ROUNDS):
            choice = choices.best(room)
            built = self.build(choice, choice.kl)
            excess = self._rounds[-1].bytes + len(built.certificate.to_json()) - target
            if excess <= 0:
                return built
            room = choice.nbytes - excess
        raise BuildError(f"no engine fits into {target:,} bytes; {excess:,} are missing")

    def build(self, choice: Choice, budget: float) -> Built:
        shown = ", ".join(f"{kind} {scheme}" for kind, scheme in choice.schemes.items())
        self._say(f"round {len(self._rounds) + 1}: {shown}")
        recipe = dataclasses.replace(self._request.recipe, schemes=choice.schemes)
        request = dataclasses.replace(self._request, recipe=recipe, max_kl=self._goal.max_kl)
        built = make_engine(self._source, self._prompting, request, self._writer, self._say)
        measured = built.certificate.logits.kl_mean
        size = sum(path.stat().st_size for path in self._writer.folder.iterdir())
        self._rounds.append(Round(budget, choice.kl, measured, size))
        self._say(f"mean KL {measured:.3e}, expected {choice.kl:.3e}; {size:,} bytes")
        return self.explained(built, choice)

    def explained(self, built: Built, choice: Choice | None = None) -> Built:
        """Return ``built`` with its plan, and all rounds so far, in the certificate."""
        plan = built.certificate.plan
        if choice is not None:
            plan = Plan(self._goal, self._planned(choice), choice.kl, ())
        if plan is None:
            raise BuildError("an engine without a plan cannot be explained")
        plan = dataclasses.replace(plan, rounds=tuple(self._rounds))
        certificate = dataclasses.replace(built.certificate, plan=plan)
        return dataclasses.replace(built, certificate=certificate)

    def _planned(self, choice: Choice) -> tuple[PlannedClass, ...]:
        return tuple(
            PlannedClass(
                kind,
                self._values[kind],
                str(choice.options[kind].scheme),
                tuple(PlannedOption(str(o.scheme), o.nbytes, o.kl) for o in options),
            )
            for kind, options in self._options.items()
        )

    def keep(self) -> None:
        """Put the engine that was built last aside."""
        for path in self._kept.iterdir() if self._kept.is_dir() else ():
            path.unlink()
        self._kept.mkdir(exist_ok=True)
        for path in self._writer.folder.iterdir():
            os.link(path, self._kept / path.name)
        # The next round must not write into the file that is kept.
        self._writer.journal.unlink(missing_ok=True)
        for path in self._writer.folder.iterdir():
            path.unlink()

    def use_kept(self) -> None:
        """Bring back what was put aside."""
        for path in self._writer.folder.iterdir():
            path.unlink()
        for path in self._kept.iterdir():
            os.replace(path, self._writer.folder / path.name)

    def _overhead(self, choice: Choice) -> int:
        """Return the bytes of an engine beside those that a choice counts."""
        recipe = dataclasses.replace(self._request.recipe, schemes=choice.schemes)
        plan = find_target(self._request.target).plan(self._source, recipe)
        records = len(plan.weights.matrices) + len(plan.weights.declared)
        return plan.nbytes - choice.nbytes + records * _RECORD_BYTES


def _sensitivity(
    source: Checkpoint, prompting: Prompting, request: BuildRequest, writer: BundleWriter, say: Say
) -> dict[str, list[Option]]:
    """Measure, or read what an interrupted build has measured."""
    plan = find_target(request.target).plan(source, request.recipe)
    text = calibration_text(prompting, dataclasses.replace(request, calibration_tokens=_TOKENS))
    schemes = [str(scheme) for scheme in CANDIDATES]
    key = {"checkpoint": source.identity(), "text": text.digest, "schemes": schemes}
    path = writer.workspace / "sensitivity.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["key"] == json.loads(json.dumps(key)):
            say("using the sensitivities that the interrupted build has measured")
            return _options(known["options"])
    candidates = {kind: _fitting(source, kind) for kind in SCHEMED}
    layers = source.config.num_hidden_layers
    with step_progress("measuring what each class loses", layers + 1) as advance:
        options = measure(source, plan.weights.matrices, text.sequences, candidates, advance)
    saved = {kind: [_to_json(option) for option in found] for kind, found in options.items()}
    path.write_text(json.dumps({"key": key, "options": saved}), encoding="utf-8")
    return options


def _fitting(source: Checkpoint, kind: str) -> list[Scheme]:
    """Return the candidates whose blocks divide the width where the kernel asks for it."""
    hidden = source.config.hidden_size
    if kind not in ("embedding", "experts_gate_up"):
        return list(CANDIDATES)
    return [scheme for scheme in CANDIDATES if hidden % scheme.block_size == 0]


def _to_json(option: Option) -> dict[str, Any]:
    return {**dataclasses.asdict(option.scheme), "bytes": option.nbytes, "kl": option.kl}


def _options(saved: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Option]]:
    return {
        kind: [
            Option(Scheme(o["bits"], o["block_size"], o["symmetric"]), o["bytes"], o["kl"])
            for o in found
        ]
        for kind, found in saved.items()
    }
