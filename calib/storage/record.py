"""What storing one tensor cost: the rows of the certificate's table of tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.provenance import Tensor

# The last one is scales that activations are rounded with.
CLASSES = (
    "embedding",
    "attention",
    "absorbed",
    "mlp",
    "experts_gate_up",
    "experts_down",
    "lm_head",
    "router",
    "norms",
    "activations",
)


@dataclass(frozen=True, slots=True)
class Loss:
    """What storing some values cost.

    Attributes:
        squared_weight: sum of the squared values.
        squared_error: sum of the squared differences between value and stored value.
        max_error: the largest of these differences.
    """

    squared_weight: float
    squared_error: float
    max_error: float

    @classmethod
    def between(cls, values: NDArray[np.float32], restored: NDArray[np.float32]) -> Loss:
        """Compare values with what they come back as."""
        difference = restored - values
        largest = max(float(difference.max()), -float(difference.min()))
        squares = float(np.vdot(values, values)), float(np.vdot(difference, difference))
        return cls(*squares, largest)


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One stored tensor, or some rows of it.

    Attributes:
        name: the tensor's name in the graph; ``[17]`` behind it is an expert.
        kind: one of `CLASSES`.
        scheme: how it is stored, such as ``int4 b32``.
        method: how its values were chosen: ``exact`` (as they are), ``rtn``, ``clip``, ``awq``,
            ``gptq``, ``awq+gptq``.
        values: number of weights.
        nbytes: stored bytes, with scales and zero points.
        squared_weight: sum of the squared weights.
        squared_error: sum of the squared differences between weight and stored value.
        max_error: the largest of these differences.
        fallback: why the method is not the one that was asked for, or None.
    """

    name: str
    kind: str
    scheme: str
    method: str
    values: int
    nbytes: int
    squared_weight: float = 0.0
    squared_error: float = 0.0
    max_error: float = 0.0
    fallback: str | None = None

    @property
    def layer(self) -> int | None:
        """The decoder layer, or None for the embedding, the last norm and the head."""
        first, _, rest = self.name.partition("/")
        prefix, _, number = first.partition(".")
        return int(number) if prefix == "layers" and rest else None

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels, None where nothing was lost."""
        if not self.squared_error:
            return None
        # A tensor of zeros that does not come back as zeros has no signal at all.
        return 10 * math.log10(max(self.squared_weight, 1e-300) / self.squared_error)

    def stated(self) -> Tensor:
        """Return what a certificate says of it."""
        return Tensor(
            self.name,
            self.kind,
            self.layer,
            self.scheme,
            self.method,
            self.values,
            self.nbytes,
            self.snr_db,
            self.max_error,
            self.fallback,
        )


def merge(records: Iterable[TensorRecord]) -> list[TensorRecord]:
    """Return one record a tensor: those of its row ranges are added up, in their first order."""
    found: dict[str, TensorRecord] = {}
    for record in records:
        before = found.get(record.name)
        found[record.name] = (
            record
            if before is None
            else dataclasses.replace(
                before,
                values=before.values + record.values,
                nbytes=before.nbytes + record.nbytes,
                squared_weight=before.squared_weight + record.squared_weight,
                squared_error=before.squared_error + record.squared_error,
                max_error=max(before.max_error, record.max_error),
            )
        )
    return list(found.values())
