"""What plans of GPU engines are compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from trtcoder.errors import BuildError

SLOTS, CONTEXT, CHUNK = 8, 8192, 512
# Attention's scores of one layer and step, float16 [slots, heads x tokens, rows], that a chunk of a
# prompt is kept to unless it is asked for.
SCORE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiling:
    """What plans are compiled for; None leaves the choice to the target.

    Attributes:
        capabilities: compute capabilities of GPUs, such as 89 for 8.9; one plan runs on all.
        slots: answers that are computed at the same time.
        context: tokens that each of them has room for.
        chunk: most tokens of a prompt that one step takes.
        weight_streaming: whether weights may stay in the host's memory and go to the GPU as they
            are needed, where it has less memory than they take.
    """

    capabilities: tuple[int, ...] | None = None
    slots: int | None = None
    context: int | None = None
    chunk: int | None = None
    weight_streaming: bool = False

    def check(self) -> None:
        """Raise BuildError for a number that is out of range."""
        for name, value, least, most in (
            ("slots", self.slots, 1, 256),
            ("context", self.context, 16, 1 << 20),
            ("chunk", self.chunk, 1, 8192),
        ):
            if value is not None and not least <= value <= most:
                raise BuildError(f"{name} is {value}; it must be from {least} to {most}")


# Nothing was asked for.
BY_DEFAULT = Compiling()
