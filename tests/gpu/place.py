"""Where the steps run, and what a step leaves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PREPARED = Path("engines/gpu")


class NotPreparedError(Exception):
    """What a step needs and is not there."""


@dataclass(frozen=True)
class Place:
    """The device, and the folders.

    Attributes:
        device: ``cuda``; ``cpu`` where a step's own code is tested.
        prepared: what `tests.gpu.prepare` wrote.
        work: for what a step makes.
    """

    device: str
    prepared: Path
    work: Path

    def need(self, name: str) -> Path:
        """Return a prepared file or folder.

        Raises:
            NotPreparedError: it is not there.
        """
        path = self.prepared / name
        if not path.exists():
            raise NotPreparedError(
                f"{path} is missing; run `make gpu-prepare` where there is a network, and bring "
                f"{self.prepared} along"
            )
        return path


@dataclass(frozen=True)
class Found:
    """What a step measured: a line for people, numbers, and what does not hold."""

    line: str
    values: dict[str, Any]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A line of the journal; ``problem`` is None where the step passed."""

    step: str
    seconds: float
    line: str
    values: dict[str, Any]
    problem: str | None


def note(journal: Path, entry: Entry) -> None:
    """Append an entry, so that it is there whatever comes next."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")
