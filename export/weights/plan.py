"""The plan of an engine's weights: what is stored, in what form, and the steps that make it.

A plan is declared from shapes alone. Nothing is read before its steps run, so a plan of any size is
made in milliseconds, and the weights stream through `trtcoder.export.weights.writer` one step at a
time.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.quantizers.quantizer import Quantizer, RoundToNearest
from trtcoder.calib.storage.float8 import Storage
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.errors import BuildError
from trtcoder.export.weights.matrix import Matrix


class DType(enum.Enum):
    """How one value is stored; the values are safetensors' names."""

    FLOAT = "F32"
    FLOAT16 = "F16"
    BFLOAT16 = "BF16"
    FLOAT8 = "F8_E4M3"
    UINT8 = "U8"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy type of the stored bytes."""
        return _NUMPY[self]


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.FLOAT: np.dtype(np.float32),
    DType.FLOAT16: np.dtype(np.float16),
    # NumPy has neither bfloat16 nor float8: their bits are seen as unsigned integers.
    DType.BFLOAT16: np.dtype(np.uint16),
    DType.FLOAT8: np.dtype(np.uint8),
    DType.UINT8: np.dtype(np.uint8),
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


@dataclass(frozen=True, slots=True)
class Part:
    """Entries ``start`` up to ``start + len(value)`` of a weight's leading axis."""

    weight: str
    start: int
    value: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a step made: parts of weights, and what storing them so cost."""

    parts: list[Part]
    records: list[TensorRecord]


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of weight conversion.

    ``sources`` are the checkpoint tensors that it reads, ``values`` how many numbers of them.
    Steps of one ``stage`` (the embedding, each layer, the head) may run in any order and at the
    same time; stages run one after another.
    """

    key: str
    stage: int
    sources: tuple[str, ...]
    values: int
    produce: Callable[[], Converted]

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
        weights: the declared weights by name.
        steps: what fills them.
        matrices: the stored matrices by name.
        padded: widths that were padded to whole blocks, by role.
    """

    def __init__(self, quantizer: Quantizer | None = None) -> None:
        self.quantizer: Quantizer = quantizer or RoundToNearest()
        self.weights: dict[str, Weight] = {}
        self.steps: list[Step] = []
        self.matrices: dict[str, StoredMatrix] = {}
        self.padded: dict[str, str] = {}
        self._stage = 0

    def declare(self, name: str, kind: str, dtype: DType, shape: Sequence[int]) -> Weight:
        """Declare a weight of class ``kind``; some step must fill all of it.

        Raises:
            BuildError: there is one of that name.
        """
        if name in self.weights:
            raise BuildError(f"{name}: declared twice")
        weight = self.weights[name] = Weight(name, kind, dtype, tuple(shape))
        return weight

    def add_step(
        self, key: str, sources: tuple[str, ...], values: int, produce: Callable[[], Converted]
    ) -> None:
        """Add a step of the present stage."""
        self.steps.append(Step(key, self._stage, sources, values, produce))

    def next_stage(self) -> None:
        """Begin the stage behind the one that steps were added to."""
        self._stage += 1

    def pad(self, name: str, width: int, block_size: int) -> None:
        """Note that a width is not a multiple of the block, once for all layers alike."""
        role = re.sub(r"layers\.\d+", "layers.*", name)
        padded = -(-width // block_size) * block_size
        self.padded[role] = f"{width} padded to {padded}"
