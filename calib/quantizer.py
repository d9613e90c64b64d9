"""How a build asks for quantized matrices, with or without calibration."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.blocks import QuantizedMatrix
from trtcoder.calib.rtn import quantize
from trtcoder.calib.scheme import Scheme
from trtcoder.errors import BuildError

Floats = NDArray[np.float32]
Quantized = tuple[QuantizedMatrix, str, str | None]


class Quantizer(Protocol):
    """Chooses the stored values of matrices.

    A *site* is the name of the activation that a matrix multiplies, such as
    ``layers.3/post_attention_norm``. Where a quantizer returns a scale for a site, the matrices
    behind it are stored with their columns multiplied by it, and what makes the activation
    (a norm's weight, the rows of an up projection, W_UV) is divided by it: the product stays.
    """

    @property
    def rescales(self) -> bool:
        """Whether any site may have a scale."""

    def input_scale(self, site: str) -> Floats | None:
        """Return the scale of a site's channels, float32 ``[K]``, or None for ones."""

    def quantize(
        self, name: str, site: str, weights: Floats, scheme: Scheme, start: int
    ) -> Quantized:
        """Quantize rows ``start`` and on, ``weights`` ``[N, K]``, of the tensor ``name``.

        The columns are already multiplied by the site's scale. Returns the matrix, the method
        that chose its values, and why it is not the one that was asked for (None if it is).

        Raises:
            BuildError: a value or a statistic is not finite; the error names the tensor.
        """

    def amax(self, site: str) -> float | None:
        """Return the largest magnitude of a site's activations; None if no token reached it.

        Raises:
            BuildError: no activations are observed.
        """

    def keep(self, name: str, start: int, restored: Floats) -> None:
        """Take note of what the stored rows stand for, in the checkpoint's own scale."""


class RoundToNearest:
    """Quantizes every value to the nearest one, without looking at activations."""

    rescales = False

    def input_scale(self, site: str) -> Floats | None:
        """Return None: no site is scaled."""
        return None

    def quantize(
        self, name: str, site: str, weights: Floats, scheme: Scheme, start: int
    ) -> Quantized:
        """Round ``weights``."""
        return quantize(weights, scheme, name), "rtn", None

    def amax(self, site: str) -> float | None:
        """Refuse."""
        raise BuildError(
            f"{site}: static activation scales need calibration text; use --activations dynamic"
        )

    def keep(self, name: str, start: int, restored: Floats) -> None:
        """Forget it."""
