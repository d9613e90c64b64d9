"""The plan of an engine's weights: what is stored, in what form, and the steps that make it.

A plan is declared from shapes alone. Nothing is read before its steps run, so a plan of any size is
made in milliseconds, and the weights stream through `trtcoder.export.weights.writer` one step at a
time.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer, RoundToNearest
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.calib.storage.storage import Storage
from trtcoder.errors import BuildError
from trtcoder.export.weights.matrix import Matrix

# Names that an error lists.
_SHOWN = 8


class DType(enum.Enum):
    """How one value is stored; the values are safetensors' names."""

    FLOAT = "F32"
    FLOAT16 = "F16"
    BFLOAT16 = "BF16"
    FLOAT8 = "F8_E4M3"
    UINT8 = "U8"
    INT32 = "I32"
    INT64 = "I64"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy type of the stored bytes."""
        return _NUMPY[self]

    @property
    def is_whole(self) -> bool:
        """Whether values are whole numbers."""
        return self in (DType.UINT8, DType.INT32, DType.INT64)


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.FLOAT: np.dtype(np.float32),
    DType.FLOAT16: np.dtype(np.float16),
    # NumPy has neither bfloat16 nor float8: their bits are seen as unsigned integers.
    DType.BFLOAT16: np.dtype(np.uint16),
    DType.FLOAT8: np.dtype(np.uint8),
    DType.UINT8: np.dtype(np.uint8),
    DType.INT32: np.dtype(np.int32),
    DType.INT64: np.dtype(np.int64),
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored tensor; ``kind`` is its class, one of `trtcoder.calib.storage.record.CLASSES`."""

    name: str
    kind: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.numpy.itemsize

    @property
    def row_nbytes(self) -> int:
        """Bytes of one entry of the leading axis."""
        return self.nbytes // self.shape[0]

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Return entries ``start`` up to ``stop`` of the leading axis, to its end when None."""
        return Rows(self.name, start, self.shape[0] if stop is None else stop)


@dataclass(frozen=True, slots=True)
class Rows:
    """Entries ``start`` up to ``stop`` of a weight's leading axis."""

    weight: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Part:
    """Entries ``start`` up to ``start + len(value)`` of a weight's leading axis."""

    weight: str
    start: int
    value: NDArray[np.generic]

    @property
    def rows(self) -> Rows:
        """What it fills."""
        return Rows(self.weight, self.start, self.start + len(self.value))


@dataclass(frozen=True, slots=True)
class Converted:
    """What a step made: parts of weights, and what storing them so cost."""

    parts: list[Part]
    records: list[TensorRecord]


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of weight conversion.

    ``sources`` are the checkpoint tensors that it reads, ``values`` how many numbers of them;
    ``fills`` is what `produce` makes. Steps of one ``stage`` (the embedding, each layer, the head)
    may run in any order and at the same time; stages run one after another.
    """

    key: str
    stage: int
    sources: tuple[str, ...]
    values: int
    produce: Callable[[], Converted]
    fills: tuple[Rows, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it reads from a bf16 checkpoint, for progress."""
        return 2 * self.values


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix that the plan stores.

    Attributes:
        source: where its rows come from.
        activation: the name of the activation that it multiplies; empty for a table.
        kind: its class, one of `trtcoder.calib.storage.record.CLASSES`.
        scheme: how it is stored.
    """

    source: Matrix
    activation: str
    kind: str
    scheme: Storage


class WeightPlan:
    """Collects the weights of one engine, in their stored order, and the steps that fill them.

    Attributes:
        quantizer: chooses stored values when steps run.
        declared: the declared weights by name.
        steps: what fills them.
        matrices: the stored matrices by name.
        padded: widths that were padded to whole blocks, by role.
    """

    def __init__(self, quantizer: Quantizer | None = None) -> None:
        self.quantizer: Quantizer = quantizer or RoundToNearest()
        self.declared: dict[str, Weight] = {}
        self.steps: list[Step] = []
        self.matrices: dict[str, StoredMatrix] = {}
        self.padded: dict[str, str] = {}
        self._stage = 0

    def declare(self, name: str, kind: str, dtype: DType, shape: Sequence[int]) -> Weight:
        """Declare a weight of class ``kind``; some step must fill all of it.

        Raises:
            BuildError: there is one of that name.
        """
        if name in self.declared:
            raise BuildError(f"{name}: declared twice")
        weight = self.declared[name] = Weight(name, kind, dtype, tuple(shape))
        return weight

    def add_step(
        self,
        key: str,
        sources: tuple[str, ...],
        values: int,
        produce: Callable[[], Converted],
        fills: Iterable[Rows],
    ) -> None:
        """Add a step of the present stage; ``fills`` is what it will make."""
        self.steps.append(Step(key, self._stage, sources, values, produce, tuple(fills)))

    def next_stage(self) -> None:
        """Begin the stage behind the one that steps were added to."""
        self._stage += 1

    def check(self) -> None:
        """Raise BuildError unless the steps fill each row of each weight, and fill it once."""
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in self.declared}
        unknown = []
        for step in self.steps:
            for rows in step.fills:
                if rows.weight in found:
                    found[rows.weight].append((rows.start, rows.stop))
                else:
                    unknown.append(rows.weight)
        missing, doubled = [], []
        for name, ranges in found.items():
            end = 0
            for start, stop in [*sorted(ranges), (self.declared[name].shape[0],) * 2]:
                if start > end and name not in missing:
                    missing.append(name)
                if start < end and name not in doubled:
                    doubled.append(name)
                end = max(end, stop)
        counted = Counter(step.key for step in self.steps)
        problems = [
            f"{problem} {', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}"
            for problem, names in (
                ("no step fills all of", missing),
                ("several steps, or rows that are not declared, fill", doubled),
                ("a step fills, and nothing declares,", unknown),
                ("several steps have the name", [key for key in counted if counted[key] > 1]),
            )
            if names
        ]
        if problems:
            raise BuildError(f"the plan of the weights is not complete: {'; '.join(problems)}")

    def pad(self, name: str, width: int, block_size: int) -> None:
        """Note that a width is not a multiple of the block, once for all layers alike."""
        role = re.sub(r"layers\.\d+", "layers.*", name)
        padded = -(-width // block_size) * block_size
        self.padded[role] = f"{width} padded to {padded}"
