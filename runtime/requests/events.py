"""What a request's reader is told while it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trtcoder.errors import TrtcoderError

# stop: an end-of-sequence token, a stop token or a stop string (`Chunk.stop_reason` says which);
# length: as many tokens as were asked for; context: no room for another token.
FinishReason = Literal["stop", "length", "context", "cancelled"]
TokenLogprob = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sampled token and the text that became certain with it, often none.

    Attributes:
        text: goes on from that of the chunk before.
        token: the sampled id; None where an answer ends behind its last token for lack of room.
        index: which of the request's answers goes on.
        finish_reason: of the last chunk of an answer; None before.
        stop_reason: the stop string or stop token that ended it; None for an end-of-sequence token.
        logprob: natural log-probability of the token, where asked for.
        top_logprobs: the most likely tokens and theirs.
    """

    text: str
    token: int | None
    index: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """So many of a prompt's tokens are in the cache; ``cached`` of them were there before."""

    computed: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of the prompt's tokens; the first has none.

    ``tokens`` has one for each, ``top`` the most likely ones at its place.
    """

    tokens: tuple[float | None, ...]
    top: tuple[tuple[TokenLogprob, ...], ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An answer was ended before its time, by its reader or by the engine's closing."""

    index: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A request failed by itself; the others go on."""

    error: TrtcoderError


Event = Chunk | Progress | PromptLogprobs | Cancelled | Failed
