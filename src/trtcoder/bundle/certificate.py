"""What an engine's certificate says: `parity.json` as frozen dataclasses.

This is the reading side, which takes every format so far: what an older one lacks is None or
empty. `trtcoder.export.parity.verify` writes the newest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trtcoder.bundle.quality import QUALITIES, lost_context
from trtcoder.errors import EngineError
from trtcoder.typed_json import MismatchError, read

FILE_NAME = "parity.json"
FORMATS = (1, 2)
_LARGEST_EXPONENT = 324  # of a float64, with subnormal ones
_MOST_LAYERS = 10_000
_REMEDY = "run `trtcoder verify` again"


@dataclass(frozen=True, slots=True)
class Reference:
    """What the engine was compared with: the checkpoint's digest, and versions of all software."""

    checkpoint: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """Where the text came from, and how much of it was compared."""

    source: str
    sequences: int
    tokens: int
    far_position: int


@dataclass(frozen=True, slots=True)
class Gate:
    """One metric; ``limit`` and ``passed`` are None where it is only stated."""

    name: str
    measured: float
    limit: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Positions by their KL: ``edges`` are log10 of nats, one more than ``counts``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Logits:
    """The logits of all positions; see `trtcoder.export.parity.report.LogitParity`."""

    positions: int
    max_abs: float
    relative_error: float
    kl_mean: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    top1_ambiguous: int
    top1_wrong: int
    after_tie: int
    judged_relative_error: float
    judged_kl_max: float
    kl_histogram: Histogram | None = None
    context_nats: float | None = None
    constant_top1: float | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """The residual stream's relative error after a layer, and where its router sent tokens.

    Errors are ``||engine - reference|| / ||reference||``; the router's fields are None in a layer
    without experts.
    """

    layer: int
    hidden_mean: float
    hidden_max: float
    router_agreement: float | None
    router_ties: int | None
    router_wrong: int | None
    router_after_tie: int | None


@dataclass(frozen=True, slots=True)
class Text:
    """How well both predict held-out text of one kind."""

    kind: str
    tokens: int
    bytes: int
    reference_perplexity: float
    engine_perplexity: float
    reference_nats_per_byte: float | None
    engine_nats_per_byte: float | None


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

    max_kl: float | None = None
    target_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Option:
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
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One try of the plan: what it could spend, and what came of it."""

    budget: float
    predicted_kl: float
    measured_kl: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How schemes were given to classes, and the mean KL in nats that was predicted of them."""

    goal: Goal
    classes: tuple[PlannedClass, ...]
    predicted_kl: float
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """All of `parity.json`."""

    format: int
    verdict: str
    precision: str
    reference: Reference
    text: HeldOutText
    weights_only_kl: float | None
    gates: tuple[Gate, ...]
    logits: Logits
    layers: tuple[Layer, ...]
    texts: tuple[Text, ...]
    tensors: tuple[Tensor, ...] = ()
    calibration: Calibration | None = None
    plan: Plan | None = None
    quality: str | None = None

    @property
    def lost_context(self) -> float | None:
        """The share of the context that is lost; None where the certificate does not say it."""
        logits = self.logits
        if logits.context_nats is None:
            return None
        return lost_context(logits.kl_mean, logits.context_nats)

    @classmethod
    def from_json(cls, text: str, source: str = FILE_NAME) -> Certificate:
        """Read a certificate; ``source`` names it in errors.

        Raises:
            EngineError: not a certificate, a format that this trtcoder does not know, or a value
                that cannot be.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{source}: not JSON ({error}); {_REMEDY}") from error
        if not isinstance(data, dict) or "format" not in data:
            raise EngineError(f"{source}: not a certificate, it has no format; {_REMEDY}")
        if data["format"] not in FORMATS:
            raise EngineError(
                f"{source}: format {data['format']!r}, this trtcoder reads "
                f"{' and '.join(map(str, FORMATS))}; {_REMEDY} with this version, or use the "
                "version that wrote it"
            )
        try:
            certificate = read(cls, data, unknown_keys=True)
        except MismatchError as error:
            raise EngineError(f"{source}: {error}; {_REMEDY}") from error
        problems = list(certificate._problems())
        if problems:
            raise EngineError(f"{source}: {'; '.join(problems[:5])}; {_REMEDY}")
        return certificate

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Read a certificate's file.

        Raises:
            EngineError: see `from_json`, or the file cannot be read.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(f"{path}: cannot be read ({error})") from error
        return cls.from_json(text, str(path))

    def _problems(self) -> Iterator[str]:
        if self.quality not in (None, *QUALITIES):
            yield f"quality: {self.quality!r} is not one of {', '.join(QUALITIES)}"
        histogram = self.logits.kl_histogram
        if histogram is not None:
            if len(histogram.edges) != len(histogram.counts) + 1:
                yield (
                    f"logits.kl_histogram: {len(histogram.edges)} edges around "
                    f"{len(histogram.counts)} counts, expected one more"
                )
            if not all(low < high for low, high in itertools.pairwise(histogram.edges)):
                yield "logits.kl_histogram.edges: not ascending"
            if not all(abs(edge) <= _LARGEST_EXPONENT for edge in histogram.edges):
                yield "logits.kl_histogram.edges: not the logarithm of a number"
            if any(count < 0 for count in histogram.counts):
                yield "logits.kl_histogram.counts: a negative count"
        layers = [layer.layer for layer in self.layers]
        if layers != sorted(set(layers)) or not all(map(_is_layer, layers)):
            yield "layers: not in their order"
        for index, tensor in enumerate(self.tensors):
            if tensor.layer is not None and not _is_layer(tensor.layer):
                yield f"tensors[{index}]: {tensor.name} is in layer {tensor.layer}"
            if tensor.values < 0 or tensor.bytes < 0:
                yield f"tensors[{index}]: {tensor.name} has a negative size"
        experts = self.calibration.experts if self.calibration is not None else None
        if experts is not None:
            for layer, counts in experts.tokens.items():
                if any(count < 0 for count in counts):
                    yield f"calibration.experts.tokens.{layer}: a negative count"
        if self.plan is not None:
            if (self.plan.goal.max_kl is None) == (self.plan.goal.target_bytes is None):
                yield "plan.goal: expected either max_kl or target_bytes"
            for index, planned in enumerate(self.plan.classes):
                if planned.chosen not in {option.scheme for option in planned.options}:
                    yield f"plan.classes[{index}]: {planned.chosen} is not among its options"


def _is_layer(number: int) -> bool:
    return 0 <= number < _MOST_LAYERS
