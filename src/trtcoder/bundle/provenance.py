"""How an engine's weights came to be: a part of its certificate."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tensor:
    """What storing one tensor cost; see `trtcoder.calib.storage.record.TensorRecord`.

    ``snr_db`` is None where nothing was lost, ``layer`` outside of the layers.
    """

    name: str
    kind: str = field(metadata={"key": "class"})
    layer: int | None
    scheme: str
    method: str
    values: int
    bytes: int
    snr_db: float | None
    max_error: float
    fallback: str | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Calibration tokens that were routed to each expert, by layer.

    ``short`` has (layer, expert, tokens) of those that stayed below ``minimum`` even with tokens
    that ranked them next.
    """

    minimum: int
    tokens: dict[int, tuple[int, ...]]
    short: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The text that calibrated, and what reached the experts; ``kinds`` counts tokens."""

    method: str
    source: str
    digest: str
    seed: int
    sequences: int
    tokens: int
    kinds: dict[str, int]
    dropped: int
    experts: Coverage | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What the plan was asked for: a mean KL in nats, or a size."""

    max_kl: float | None = field(default=None, metadata={"omit_none": True})
    target_bytes: int | None = field(default=None, metadata={"omit_none": True})


@dataclass(frozen=True, slots=True)
class PlannedOption:
    """One scheme that a class could have had: its size, and the mean KL in nats that it costs."""

    scheme: str
    bytes: int
    kl: float


@dataclass(frozen=True, slots=True)
class PlannedClass:
    """A class of tensors, its scheme and what it was chosen from."""

    kind: str = field(metadata={"key": "class"})
    values: int
    chosen: str
    options: tuple[PlannedOption, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One try of the plan: what it could spend, and what came of it."""

    budget: float
    predicted_kl: float
    measured_kl: float
    bytes: int


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """Where the text came from, and how much of it was compared.

    ``part`` is the half that was used, ``judged`` or ``searched``; None is all of it.
    """

    source: str
    sequences: int
    tokens: int
    far_position: int
    part: str | None = field(default=None, metadata={"omit_none": True})


@dataclass(frozen=True, slots=True)
class Plan:
    """How schemes were given to classes, and the mean KL in nats that was predicted of them.

    The rounds were measured on ``search_text``; None where that is the text that judges.
    """

    goal: Goal
    classes: tuple[PlannedClass, ...]
    predicted_kl: float
    rounds: tuple[Round, ...]
    search_text: HeldOutText | None = field(default=None, metadata={"omit_none": True})


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an engine's weights came to be, as its build knows it; a later `verify` carries it over.

    Attributes:
        tensors: what storing each tensor cost.
        calibration: what text calibrated, and how; None without calibration.
        plan: which precision each class got, and why; None for a preset.
    """

    tensors: tuple[Tensor, ...] = ()
    calibration: Calibration | None = None
    plan: Plan | None = None
