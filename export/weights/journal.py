"""What an interrupted build has finished: a file of JSON lines beside the data that it speaks of.

The first line is the plan: everything that the bytes of the engine depend on. A build with the same
plan goes on where the last one stopped; with any other it starts over. The second is what the
system said of the checkpoint's files. Each further line is a step or a stage, noted when its data
is on the disk, so a kill or a power cut at any time leaves a journal that is true; what has changed
since is found by the digests that it has (see `trtcoder.export.weights.resume`).

The file is there only while something is finished.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtcoder.bundle.durable import replace_file
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.errors import BuildError
from trtcoder.typed_json import MismatchError, read

FORMAT = 2

Identity = Mapping[str, list[int]]


@dataclass(frozen=True, slots=True)
class Finished:
    """A step whose data is in the sink.

    Attributes:
        key: the step's.
        records: what it stored.
        parts: BLAKE3 hash of what it wrote, for each of the plan's `Step.fills`.
        digests: hash of each checkpoint tensor that it was the first to read.
    """

    key: str = field(metadata={"key": "step"})
    records: tuple[TensorRecord, ...]
    parts: tuple[str, ...]
    digests: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the journal's line."""
        line = dataclasses.asdict(self)
        return {"step": line.pop("key"), **line}


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage of a calibrated build whose steps are all finished, and what the next ones need."""

    stage: int
    state: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Sources:
    sources: dict[str, tuple[int, ...]]


class Journal:
    """The finished steps of one build.

    Attributes:
        steps: by key.
        stage: the last stage that a calibrated build finished; -1 before the first.
        state: what that stage left for the next ones.
        sources: identity of the checkpoint's files that the finished steps have read.
        note: why what was there is not gone on with, or empty.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any], sources: Identity) -> None:
        """Read the journal at ``path`` if it has this plan; remove it if not.

        ``sources`` is the identity of the checkpoint's files now (`Checkpoint.identity`).

        Raises:
            BuildError: what is at ``path`` can neither be read nor removed.
        """
        self.path = path
        self.note = ""
        self._now = _plain(sources)
        # As it will be read back: with lists for tuples, and strings for keys.
        self._header = _plain({"format": FORMAT, **plan})
        self.steps: dict[str, Finished] = {}
        self.stage = -1
        self.state: dict[str, object] = {}
        self.sources = self._now
        if not os.path.lexists(path):
            return
        try:
            self._replay()
        except (OSError, MismatchError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.note = f"the journal of the interrupted build cannot be read: {reason}"
        if self.note:
            self.restart(self.note)

    @property
    def sources_changed(self) -> bool:
        """Whether files of the checkpoint are others than those that the steps have read."""
        return bool(self.sources != self._now)

    def add(self, steps: Iterable[Finished]) -> None:
        """Note steps, whose data must be on the disk already.

        Raises:
            BuildError: the disk is full.
        """
        steps = list(steps)
        if steps:
            self._append([step.to_json() for step in steps])
            self.steps |= {step.key: step for step in steps}

    def finish_stage(
        self, stage: int, steps: Iterable[Finished], state: Mapping[str, object]
    ) -> None:
        """Note that all steps up to ``stage`` are finished, and what the next ones need.

        ``steps`` are those of the stage.

        Raises:
            BuildError: the disk is full.
        """
        steps = list(steps)
        line = {"stage": stage, "state": dict(state)}
        self._append([*(step.to_json() for step in steps), line])
        self.steps |= {step.key: step for step in steps}
        self.stage, self.state = stage, dict(state)

    def keep(self, steps: Mapping[str, Finished]) -> None:
        """Forget all steps but these, which are true of the checkpoint's files as they are now.

        Raises:
            BuildError: the disk is full.
        """
        if not steps:
            self.restart()
            return
        self.steps, self.sources = dict(steps), self._now
        lines = [*self._head(), *(step.to_json() for step in steps.values())]
        if self.stage >= 0:
            lines.append({"stage": self.stage, "state": self.state})
        try:
            replace_file(self.path, "".join(map(_line, lines)))
        except OSError as error:
            raise self._failed(error) from error

    def restart(self, note: str = "") -> None:
        """Remove the journal; ``note`` says why.

        Raises:
            BuildError: it cannot be removed.
        """
        self.steps, self.stage, self.state, self.sources = {}, -1, {}, self._now
        self.note = note
        try:
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise BuildError(
                f"{self.path}: cannot be removed: {error.strerror}; remove it yourself"
            ) from error

    def _head(self) -> list[dict[str, Any]]:
        return [self._header, {"sources": self.sources}]

    def _append(self, entries: list[dict[str, Any]]) -> None:
        """Write lines behind the last one; of lines that do not get to the disk, leave none."""
        is_new = not self.steps and self.stage < 0
        lines = [*self._head(), *entries] if is_new else entries
        try:
            if is_new:
                replace_file(self.path, "".join(map(_line, lines)))
                return
            with self.path.open("ab") as file:
                end = file.tell()
                try:
                    file.write("".join(map(_line, lines)).encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, end)
                    raise
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BuildError:
        return BuildError(
            f"{self.path}: cannot be written: {error.strerror}; put that right and run the same "
            "command again"
        )

    def _replay(self) -> None:
        lines = _Lines(self.path)
        header = next(lines.entries, "")
        if not isinstance(header, dict):
            raise MismatchError("line 1: expected the plan of a build")
        if header != self._header:
            missing = object()
            changed = sorted(
                key
                for key in self._header.keys() | header.keys()
                if self._header.get(key, missing) != header.get(key, missing)
            )
            self.note = f"changed since the interrupted build: {', '.join(changed)}"
            return
        for number, entry in enumerate(lines.entries, 2):
            try:
                self._take(entry)
            except MismatchError as error:
                raise MismatchError(f"line {number}: {error}") from error
        os.truncate(self.path, lines.length)

    def _take(self, entry: object) -> None:
        keys = entry.keys() if isinstance(entry, dict) else ()
        if "step" in keys:
            step = read(Finished, entry)
            self.steps[step.key] = step
        elif "stage" in keys:
            stage = read(_Stage, entry)
            self.stage, self.state = stage.stage, stage.state
        else:
            self.sources = _plain(read(_Sources, entry).sources)


class _Lines:
    """The entries of a journal's whole lines, and how many bytes of the file they are.

    What a kill or a power cut broke off at the end is left out.
    """

    def __init__(self, path: Path) -> None:
        self.length = 0
        self.entries = self._read(path.read_bytes())

    def _read(self, data: bytes) -> Iterator[Any]:
        for line in data.splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not line.endswith(b"\n"):
                return
            self.length += len(line)
            yield entry


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value))
