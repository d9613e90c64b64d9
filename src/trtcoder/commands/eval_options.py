"""The options of `trtcoder eval`, as the user gave them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from trtcoder.evaluation.problem import Form


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """All of them; see the command's help."""

    suites: tuple[str, ...]
    files: tuple[str, ...]
    limit: int | None
    form: Form | None
    out: Path | None
    resume: bool
    force: bool
    attach: bool
    picture: Path | None
    needle_lengths: str | None
    needle_depths: int
    trust_generated_code: bool
    threads: int | None
    context: int | None
    at_once: int
    model: str | None

    def data(self) -> dict[str, Path]:
        """Return the files that were named, by suite."""
        from trtcoder.evaluation.suites.registry import find_suites

        found = {}
        for each in self.files:
            name, _, path = each.partition("=")
            if not path:
                raise RequestError(f"--file {each}: expected SUITE=PATH")
            find_suites([name])
            found[name] = Path(path)
        return found

    def lengths(self) -> tuple[int, ...]:
        """Return the haystacks' lengths."""
        if self.needle_lengths is None:
            return ()
        try:
            found = tuple(int(each) for each in self.needle_lengths.split(","))
        except ValueError:
            found = ()
        if not found or min(found) < 128 or len(set(found)) < len(found):
            raise RequestError(
                f"--needle-lengths {self.needle_lengths}: expected different whole numbers from "
                "128, such as 1024,4096"
            )
        return found
