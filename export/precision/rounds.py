"""Engines of mixed precision that are built one after another, and the best of them kept aside.

What each measured is noted, so that a build which is interrupted does not build it again, unless it
turns out to be the one that is wanted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.durable import replace_file
from trtcoder.bundle.provenance import Goal, Plan, PlannedClass, PlannedOption, Round
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.budget import Choice, Option
from trtcoder.calib.text.heldout import load_heldout
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.conversion import Say
from trtcoder.export.pipeline import Built, make_engine
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets.registry import find_target
from trtcoder.export.targets.target import journal_key
from trtcoder.prompting.source import Prompting
from trtcoder.typed_json import MismatchError, read


@dataclass(frozen=True, slots=True)
class Tried:
    """A choice and the engine that it gave.

    Attributes:
        choice: a scheme for each class.
        round: what was measured.
        passed: whether it keeps its gates.
        finite: whether all that it computes is finite.
        built: None if it was built by a process that was interrupted.
    """

    choice: Choice
    round: Round
    passed: bool
    finite: bool
    built: Built | None


@dataclass(frozen=True, slots=True)
class _Noted:
    schemes: dict[str, str]
    measured_kl: float
    bytes: int
    passed: bool
    finite: bool


@dataclass(frozen=True, slots=True)
class _Notes:
    key: dict[str, object]
    rounds: tuple[_Noted, ...]


class Rounds:
    """Builds choices in a writer's folder.

    Attributes:
        made: all rounds so far.
    """

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
        """Prepare.

        ``request.recipe`` gives all but the schemes, ``request.part`` the text that measures;
        ``goal`` and ``options`` go into the certificates.
        """
        self.made: list[Round] = []
        self._source, self._prompting, self._request = source, prompting, request
        self._goal, self._options, self._writer, self._say = goal, options, writer, say
        self._values: Counter[str] = Counter()
        plan = find_target(request.target).plan(source, request.recipe)
        for stored in plan.weights.matrices.values():
            self._values[stored.kind] += stored.source.rows * stored.source.width
        self._kept_folder = writer.workspace / "kept"
        shutil.rmtree(self._kept_folder, ignore_errors=True)
        self._kept: Tried | None = None
        self._in_folder: Tried | None = None
        self._path = writer.workspace / "rounds.json"
        self._key: dict[str, object] = json.loads(
            json.dumps({**journal_key(plan), "sources": source.identity(), **self._measured_by()})
        )
        self._notes = read_notes(self._path, self._key)

    def build(self, choice: Choice, budget: float) -> Tried:
        """Build and measure a choice, unless an interrupted build has done so."""
        shown = ", ".join(f"{kind} {scheme}" for kind, scheme in choice.schemes.items())
        self._say(f"round {len(self.made) + 1}: {shown}")
        noted = next((note for note in self._notes if note.schemes == _names(choice)), None)
        if noted is not None:
            self._say("measured by the interrupted build")
            tried = Tried(
                choice, self._round(choice, budget, noted.measured_kl, noted.bytes),
                noted.passed, noted.finite, None,
            )  # fmt: skip
        else:
            tried = self._make(choice, budget)
            self._note(tried)
        self.made.append(tried.round)
        self._say(
            f"mean KL {tried.round.measured_kl:.3g}, expected {choice.kl:.3g}; "
            f"{tried.round.bytes:,} bytes"
        )
        return tried

    def keep(self, tried: Tried) -> None:
        """Put the engine of the last round aside, in place of the one that is there."""
        self._kept = tried
        if tried.built is None:
            return
        # First what says that the folder can be gone on with.
        self._writer.journal.unlink(missing_ok=True)
        shutil.rmtree(self._kept_folder, ignore_errors=True)
        os.rename(self._writer.folder, self._kept_folder)
        self._writer.folder.mkdir()
        self._in_folder = None

    def engine(self, tried: Tried) -> Built:
        """Return a round's engine, in the writer's folder and with the plan in its certificate."""
        if tried is self._kept and tried.built is not None and tried is not self._in_folder:
            self._writer.clear()
            self._writer.folder.rmdir()
            os.rename(self._kept_folder, self._writer.folder)
            self._in_folder = tried
        elif tried is not self._in_folder:
            tried = self._make(tried.choice, tried.round.budget)
        if tried.built is None:
            raise RuntimeError("an engine in the folder was built")
        plan = self._plan(tried.choice)
        certificate = dataclasses.replace(tried.built.certificate, plan=plan)
        return dataclasses.replace(tried.built, certificate=certificate)

    def _make(self, choice: Choice, budget: float) -> Tried:
        if self._in_folder is not None:
            self._writer.clear()
        recipe = dataclasses.replace(self._request.recipe, schemes=choice.schemes)
        request = dataclasses.replace(self._request, recipe=recipe)
        built = make_engine(self._source, self._prompting, request, self._writer, self._say)
        found = built.certificate
        size = sum(path.stat().st_size for path in self._writer.folder.iterdir())
        tried = Tried(
            choice, self._round(choice, budget, found.logits.kl_mean, size),
            found.verdict == "passed", found.finite, built,
        )  # fmt: skip
        self._in_folder = tried
        return tried

    def _round(self, choice: Choice, budget: float, measured: float, size: int) -> Round:
        return Round(budget, choice.kl, measured, size)

    def _plan(self, choice: Choice) -> Plan:
        classes = tuple(
            PlannedClass(
                kind,
                self._values[kind],
                str(choice.options[kind].scheme),
                tuple(PlannedOption(str(o.scheme), o.nbytes, o.kl) for o in options),
            )
            for kind, options in self._options.items()
        )
        return Plan(self._goal, classes, choice.kl, tuple(self.made))

    def _measured_by(self) -> dict[str, object]:
        """Return what a round's outcome depends on beside its schemes and the checkpoint."""
        request = self._request
        text = load_heldout(self._prompting.prompts(), request.tokens, request.text, request.part)
        calibration = None
        if request.method != "rtn":
            calibration = request.calibration_text(self._prompting).digest
        return {
            "method": [request.method, request.minimum, calibration],
            "max_kl": request.max_kl,
            "held out": [list(sequence.ids) for sequence in text],
        }

    def _note(self, tried: Tried) -> None:
        noted = _Noted(
            _names(tried.choice), tried.round.measured_kl, tried.round.bytes, tried.passed,
            tried.finite,
        )  # fmt: skip
        self._notes = (*self._notes, noted)
        notes = _Notes(self._key, self._notes)
        replace_file(self._path, json.dumps(dataclasses.asdict(notes)))


def read_notes(path: Path, key: Mapping[str, object]) -> tuple[_Noted, ...]:
    """Return what an interrupted build with this key has measured; nothing if that is malformed."""
    try:
        notes = read(_Notes, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, MismatchError):
        return ()
    return notes.rounds if notes.key == key else ()


def _names(choice: Choice) -> dict[str, str]:
    return {kind: str(scheme) for kind, scheme in choice.schemes.items()}
