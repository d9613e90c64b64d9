"""What an interrupted build has finished: a file of JSON lines beside the data that it speaks of.

The first line is the plan: everything that the bytes of the engine depend on. A build with the same
plan goes on where the last one stopped; with any other it starts over. A line is written when the
data of its step is on the disk, so a kill or a power cut at any time leaves a journal that is true.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtcoder.calib.storage.record import TensorRecord

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Finished:
    """A step whose data is in the file.

    Attributes:
        key: the step's.
        records: what it stored.
        filled: rows that it wrote of each weight.
        digests: sha256 of each checkpoint tensor that it was the first to read.
    """

    key: str
    records: list[TensorRecord]
    filled: dict[str, int]
    digests: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the journal's line."""
        records = [dataclasses.asdict(record) for record in self.records]
        return {
            "step": self.key, "records": records, "filled": self.filled, "digests": self.digests
        }  # fmt: skip

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Finished:
        """Read a line that `to_json` returned."""
        records = [TensorRecord(**record) for record in entry["records"]]
        return cls(entry["step"], records, entry["filled"], entry["digests"])


class Journal:
    """The finished steps of one build.

    Attributes:
        steps: by key.
        stage: the last stage that a calibrated build finished; -1 before the first.
        state: what that stage left for the next ones.
        restarted: which parts of the plan differ from those of the journal that was there.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        """Read the journal at ``path`` if it has this plan, or start a new one."""
        self.path = path
        self.steps: dict[str, Finished] = {}
        self.stage = -1
        self.state: dict[str, Any] = {}
        self.restarted: list[str] = []
        # As it will be read back: with lists for tuples, and strings for keys.
        header = json.loads(json.dumps({"format": FORMAT, **plan}))
        lines, length = _read_lines(path)
        if lines and lines[0] == header:
            self._replay(lines[1:])
            os.truncate(path, length)
            return
        if lines:
            known = lines[0] if isinstance(lines[0], dict) else {}
            self.restarted = sorted(
                key for key in header.keys() | known.keys() if header.get(key) != known.get(key)
            )
        path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def add(self, steps: Iterable[Finished]) -> None:
        """Note steps, whose data must be on the disk already."""
        steps = list(steps)
        self.steps |= {step.key: step for step in steps}
        self._append([step.to_json() for step in steps])

    def finish_stage(self, stage: int, state: Mapping[str, Any]) -> None:
        """Note that all steps up to ``stage`` are finished, and what the next ones need."""
        self.stage, self.state = stage, dict(state)
        self._append([{"stage": stage, "state": self.state}])

    def _append(self, entries: list[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
            file.flush()
            os.fsync(file.fileno())

    def _replay(self, entries: list[Any]) -> None:
        for entry in entries:
            if "stage" in entry:
                self.stage, self.state = entry["stage"], entry["state"]
            else:
                self.steps[entry["step"]] = Finished.from_json(entry)


def _read_lines(path: Path) -> tuple[list[Any], int]:
    """Return the whole lines of a journal, and their length in bytes.

    What a kill cut off in the middle, and everything behind it, is left out.
    """
    lines: list[Any] = []
    length = 0
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    for line in data.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        lines.append(entry)
        length += len(line)
    return lines, length
