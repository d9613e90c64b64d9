"""What an engine's certificate says: `parity.json` as frozen dataclasses, for writing and reading.

Reading takes every format so far: what an older one lacks is None or empty. What is written is the
newest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtcoder.bundle.comparison import Comparison
from trtcoder.bundle.provenance import Calibration, HeldOutText, Plan, Provenance, Tensor
from trtcoder.bundle.quality import QUALITIES
from trtcoder.errors import EngineError
from trtcoder.plain_json import dumps
from trtcoder.refusals import parse_json, read_text
from trtcoder.typed_json import MismatchError, plain, read

FILE_NAME = "parity.json"
FORMAT = 2
FORMATS = (1, FORMAT)
_LARGEST_EXPONENT = 324  # of a float64, with subnormal ones
_MOST_LAYERS = 10_000
_REMEDY = "run `trtcoder verify` again"


@dataclass(frozen=True, slots=True)
class ReferenceInfo:
    """What the engine was compared with: the checkpoint's digest, and versions of all software."""

    checkpoint: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """The scores that were added to the engine: their file in its folder, and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Comparison):
    """All of `parity.json`.

    ``weights_only_kl`` is the mean KL in nats with float32 activations in the kernels: what storing
    the weights cost, without what the int8 kernels add. None where they are the same.
    ``evaluation`` is set where scores had been added to the engine before this was measured.
    """

    format: int = FORMAT
    reference: ReferenceInfo
    text: HeldOutText
    weights_only_kl: float | None
    tensors: tuple[Tensor, ...] = ()
    calibration: Calibration | None = None
    plan: Plan | None = None
    evaluation: EvaluationFile | None = field(default=None, metadata={"omit_none": True})

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `parity.json`."""
        found: dict[str, Any] = plain(self)
        return found

    def to_json(self) -> str:
        """Return the text of `parity.json`."""
        return dumps(self.to_dict(), indent=2, sort_keys=True, ascii_only=True) + "\n"

    def summary(self) -> dict[str, object]:
        """Return what the manifest repeats."""
        return {
            "verdict": self.verdict,
            "quality": self.quality,
            "kl_mean": self.logits.kl_mean,
            "top1_agreement": self.logits.top1_agreement,
            "tokens": self.logits.positions,
        }

    @classmethod
    def from_json(cls, text: str, source: str = FILE_NAME) -> Certificate:
        """Read a certificate; ``source`` names it in errors.

        Raises:
            EngineError: not a certificate, a format that this trtcoder does not know, or a value
                that cannot be.
        """
        data = parse_json(text, source, EngineError, _REMEDY)
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
        return cls.from_json(read_text(path, EngineError), str(path))

    @property
    def provenance(self) -> Provenance:
        """How the engine's weights came to be."""
        return Provenance(self.tensors, self.calibration, self.plan)

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


def known_provenance(folder: Path) -> Provenance:
    """Return what the certificate in an engine's folder says of its weights.

    Where that cannot be read it is empty: it describes, and decides nothing.
    """
    try:
        return Certificate.load(folder / FILE_NAME).provenance
    except EngineError:
        return Provenance()


def _is_layer(number: int) -> bool:
    return 0 <= number < _MOST_LAYERS
