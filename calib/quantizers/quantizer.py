"""How a build asks for quantized matrices, with or without calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.blocks import QuantizedMatrix
from trtcoder.calib.storage.record import Loss
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Quantized:
    """A stored matrix.

    Attributes:
        matrix: codes, scales, zero points.
        method: what chose the stored values.
        loss: what storing cost, where it was counted.
        fallback: why the method is not the one that was asked for; None if it is.
    """

    matrix: QuantizedMatrix
    method: str
    loss: Loss | None = None
    fallback: str | None = None


class Quantizer(Protocol):
    """Chooses the stored values of matrices.

    An activation is what matrices multiply; its name is that of its value in the graph, such as
    ``layers.3/post_attention_norm``. Where a quantizer returns a scale for it, the matrices behind
    it are stored with their columns multiplied by the scale, and what makes the activation (a
    norm's weight, the rows of an up projection, W_UV) is divided by it: the matmul stays.
    """

    @property
    def calibrates(self) -> bool:
        """Whether it looks at activations, and wants to know what became of the weights."""

    @property
    def rescales(self) -> bool:
        """Whether any activation may have a scale."""

    def input_scale(self, activation: str) -> Floats | None:
        """Return the scale of an activation's channels, float32 ``[K]``, or None for ones."""

    def quantize(
        self, name: str, activation: str, weights: NDArray[np.generic], scheme: Scheme, start: int
    ) -> Quantized:
        """Quantize rows ``start`` and on, ``weights`` ``[N, K]``, of the tensor ``name``.

        They are float32 with columns already multiplied by the activation's scale; where the
        quantizer does not calibrate they may be uint16, the bits of bfloat16.

        Raises:
            BuildError: a value or a statistic is not finite; the error names the tensor.
        """

    def amax(self, activation: str) -> float | None:
        """Return the largest magnitude of an activation; None if no token reached it.

        Raises:
            BuildError: nothing is observed.
        """

    def keep(self, name: str, start: int, restored: Floats) -> None:
        """Take note of what the stored rows stand for, in the checkpoint's own scale."""

    def release(self, name: str) -> None:
        """Forget what only the matrix ``name`` and those before it needed."""


class RoundToNearest:
    """Quantizes every value to the nearest one, without looking at activations."""

    calibrates = False
    rescales = False

    def input_scale(self, activation: str) -> Floats | None:
        """Return None: nothing is scaled."""
        return None

    def quantize(
        self, name: str, activation: str, weights: NDArray[np.generic], scheme: Scheme, start: int
    ) -> Quantized:
        """Round ``weights``."""
        matrix, loss = round_to_nearest(weights, scheme, name)
        return Quantized(matrix, "rtn", loss)

    def amax(self, activation: str) -> float | None:
        """Refuse."""
        raise BuildError(
            f"{activation}: static activation scales need calibration text; use "
            "--activations dynamic"
        )

    def keep(self, name: str, start: int, restored: Floats) -> None:
        """Forget it."""

    def release(self, name: str) -> None:
        """Do nothing."""
